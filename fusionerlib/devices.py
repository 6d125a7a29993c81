"""Choosing a torch device by its name, and the number format that suits it; threads of torch."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from fusionerlib.errors import FusionerError


def chosen_device(name: str) -> torch.device:
    """The device ``name`` (cpu, cuda, cuda:1, mps); "" means a CUDA GPU if there is one, else the CPU.

    Raises FusionerError for a name that torch does not know and for a device that this machine does not have.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # A build of torch without CUDA raises an AssertionError.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise FusionerError(
            f"device {name!r} can't be used here ({reason}): give cpu, or cuda where torch sees such a GPU"
        ) from error
    return device


@contextmanager
def thread_pool(most: int, *, threads: int = 0) -> Iterator[ThreadPoolExecutor]:
    """A pool of at most ``most`` threads, in each of which torch uses ``threads``; 0 divides those that it uses here.

    For work on many items. Where torch shares one operation among threads, they wait for each other by spinning, so
    beside other busy threads the operation takes several times its processor time.
    """
    here = torch.get_num_threads()
    workers = min(most, here)
    each = threads or here // workers
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(here)  # of this thread nothing changed, but of threads that start later


@contextmanager
def one_core_free() -> Iterator[None]:
    """A context manager in which torch uses one thread less than before, at least one.

    For answers that a browser on the same machine shows: while it paints, threads that share an operation wait for the
    one whose core it took, and on two cores the answer takes four times as long.
    """
    here = torch.get_num_threads()
    torch.set_num_threads(max(1, here - 1))
    try:
        yield
    finally:
        torch.set_num_threads(here)


def has_native_bf16(device: torch.device | str) -> bool:
    """Whether ``device`` has instructions that multiply bfloat16: without them it is slower than float32.

    CPU: AVX512-BF16, AMX-BF16 or ARM's BF16. CUDA: compute capability 8.0 (Ampere) or newer. Others: False.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """The processor's bfloat16 instruction sets by their names, such as avx512_bf16; empty if there are none."""
    return sorted(flag for flag in _processor_flags() if "bf16" in flag.lower())


def _processor_flags() -> set[str]:
    if hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest torch that this library takes
        return {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    found = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return set(next(found, "").split())
