"""Shared by the benchmarks: timing in turns, a description of the machine, its peak rates, counts, and records.

The benchmarks of this folder import it as ``measuring``. Compared sides are timed in turns in one process (``paired``),
so that other load of the machine affects both; ``ratio`` compares them.
"""

import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[[], object]
Seconds = dict[str, list[float]]

PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "timm", "open_clip_torch", "transformers")


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine: processor, cores of this process, memory (GB), threads, GPU, and versions of packages."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": device,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 1e9, 1)}
    return found


def ceilings(threads: int = 0, *, device: str = "cpu", precision: torch.dtype = torch.float32) -> dict[str, float]:
    """Peak rates of this machine, measured: ``matmul`` and ``convolution`` (3x3, channels_last) in GFLOP/s, ``copy`` in
    GB/s (bytes read and bytes written). threads: 0 for torch's current number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        large = device != "cpu"
        side, images = (8192, 64) if large else (1536, 4)
        a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))
        pixels = torch.randn(images, 256, 56, 56, device=device, dtype=precision)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(256, 256, 3, 3, device=device, dtype=precision).contiguous(
            memory_format=torch.channels_last
        )
        source = torch.ones((2**30 if large else 2**28) // 4, device=device)
        target = torch.empty_like(source)
        runs: dict[str, Run] = {
            "matmul": lambda: a @ b,
            "convolution": lambda: torch.conv2d(pixels, kernel, padding=1),
            "copy": lambda: target.copy_(source),
        }
        with torch.no_grad():
            seconds = fastest(paired(runs, turns=7, device=device))
            operations = {"matmul": flops(runs["matmul"]), "convolution": flops(runs["convolution"])}
    finally:
        torch.set_num_threads(before)
    return {part: operations.get(part, 2 * source.nbytes) / seconds[part] / 1e9 for part in runs}


def disk(folder: Path, *, megabytes: int = 256, turns: int = 3) -> dict[str, float]:
    """MB/s of writing a file in ``folder`` (with fsync) and of reading it without the page cache."""
    file, data = folder / "plain.bin", os.urandom(megabytes * 2**20)
    runs: dict[str, Run] = {"disk_write": lambda: write_plain(file, data), "disk_read": file.read_bytes}
    seconds = fastest(paired(runs, turns, before={"disk_read": lambda: forget(file)}))
    file.unlink()
    return {part: len(data) / 1e6 / spent for part, spent in seconds.items()}


def write_plain(file: Path, data: bytes) -> None:
    """Write ``data`` to disk (fsync), then rename the file to ``file``."""
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def forget(file: Path) -> None:
    """Drop the pages of ``file`` from the page cache, except those that a process has mapped."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def paired(
    functions: Mapping[str, Run],
    turns: int,
    *,
    device: str = "cpu",
    warm: int = 1,
    clocks: Mapping[str, Callable[[], float]] | None = None,
    before: Mapping[str, Run] | None = None,
) -> Seconds:
    """Seconds of each turn of each function. In a turn each function runs once; the order is reversed every turn.

    warm: runs of each function before the first turn, not counted. device: synchronised before the clock is read.
    clocks: clocks other than wall time, by function. before: run before a function, not counted.
    """
    clocks, before = clocks or {}, before or {}
    for name, run in functions.items():
        for _ in range(warm):
            before.get(name, lambda: None)()
            run()
    seconds: Seconds = {name: [] for name in functions}
    for turn in range(turns):
        for name in list(functions) if turn % 2 else list(functions)[::-1]:
            clock = clocks.get(name, time.perf_counter)
            before.get(name, lambda: None)()
            _wait(device)
            start = clock()
            functions[name]()
            _wait(device)
            seconds[name].append(clock() - start)
    return seconds


def fastest(seconds: Seconds) -> dict[str, float]:
    """The fastest turn of each function, the one with the least disturbance by other load."""
    return {name: min(turns) for name, turns in seconds.items()}


def ratio(seconds: Seconds, over: str, under: str) -> dict[str, float]:
    """Time of ``over`` divided by time of ``under``: of the ``fastest`` turns, and the ``median`` over turns."""
    turns = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    return {"fastest": min(seconds[over]) / min(seconds[under]), "median": statistics.median(turns)}


def flops(run: Run) -> int:
    """Floating-point operations of matrix products, convolutions and attention in ``run``, 2 a multiply-add."""
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter does not know the fused layers of torch's transformer, but their parts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def moved(run: Run) -> int:
    """Bytes that the operations of ``run`` read and write, without caches."""
    with _Traffic() as traffic:
        run()
    return traffic.bytes


class _Traffic(TorchDispatchMode):
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        # Views and empty tensors read and write nothing.
        if not func.is_view and "empty" not in func.name():
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
            self.bytes += sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)
        return made


def reached(*, seconds: float, flops: int, moved: int, ceilings: Mapping[str, float]) -> dict[str, float]:
    """GFLOP/s and GB/s of a computation that took ``seconds``, and their shares (0-1) of ``ceilings``."""
    rate, traffic = flops / seconds / 1e9, moved / seconds / 1e9
    return {"gflops": rate, "gigabytes": traffic} | {
        f"of_{part}": (traffic if part == "copy" else rate) / peak for part, peak in ceilings.items()
    }


def peak_memory(run: Run) -> float:
    """The largest resident memory of this process in bytes during ``run``, weights included."""
    gc.collect()
    most, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return most[0]


def resident(*, children: bool = False) -> float:
    """Resident memory of this process in bytes. children: add that of its workers; shared pages count repeatedly."""
    others: Sequence[Any] = multiprocessing.active_children() if children else ()
    ids = [os.getpid(), *(child.pid for child in others)]
    pages = [int(Path(f"/proc/{id}/statm").read_text().split()[1]) for id in ids]
    return float(sum(pages) * resource.getpagesize())


def write_record(file: Path | None, record: Mapping[str, Any]) -> None:
    """Write ``record`` as JSON into ``file`` and make its folder; do nothing for None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
