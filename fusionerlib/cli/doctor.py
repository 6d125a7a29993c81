"""The command ``fusioner doctor``: what a bug report needs to know about this machine and installation."""

import json
import os
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Annotated, Any

import typer

from fusionerlib import __version__
from fusionerlib.progress import size_text
from fusionerlib.records import git_state, versions

WIDTH = 100
"""Characters of a line of the text output."""
DATA = Path("data")
"""Where ``fusioner data`` puts data sets by default, each in a folder of its own."""
Section = dict[str, Any]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Show versions, devices, free disk, and which encoders and data are here; paste it into a bug report."""
    report: dict[str, Section] = {}
    for title, section in sections():
        if as_json:
            report[title] = section
        else:  # section by section: the ones behind the import of torch take seconds
            typer.echo("\n".join([title, *as_lines(section)]))
    if as_json:
        typer.echo(json.dumps(report, indent=1))


def sections() -> Iterator[tuple[str, Section]]:
    """(title, entries) of each part of the report; those that need torch come last. Paths have ``~`` for the home.

    A part that can't be made says why, because the report is asked for where something is broken.
    """
    parts: dict[str, Callable[[], Section]] = {
        "system": system,
        "packages": lambda: {name: found or "not installed" for name, found in versions().items()},
        "packages of the extras that are missing": lambda: missing_of_extras() or {"none": "all are installed"},
        "data sets": lambda: data_sets(DATA) or {tilde(DATA): "none found"},
        "torch": torch_devices,
        "free disk": free_disks,
        "encoders whose weights are here": encoders_here,
    }
    for title, part in parts.items():
        try:
            yield title, part()
        except Exception as error:
            yield title, {"failed": f"{type(error).__name__}: {error}".replace(os.path.expanduser("~"), "~")}


def system() -> Section:
    """Python, the machine, and where the library and the working directory are."""
    return {
        "fusionerlib": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "memory": memory(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "working directory": tilde(Path.cwd()),
        "library": tilde(Path(__file__).resolve().parents[1]),
        "git": git_state(Path.cwd()) or "no checkout",
    }


def processor() -> str:
    """The processor's name as the system gives it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        if names := [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]:
            return names[0]
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def cores() -> str:
    """Cores of the machine, and how many of them this process may use where the system tells."""
    usable = f", {len(os.sched_getaffinity(0))} usable" if hasattr(os, "sched_getaffinity") else ""
    return f"{os.cpu_count()}{usable}"


def memory() -> str:
    """Main memory, where the system tells (POSIX)."""
    try:
        return size_text(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return "unknown"


def missing_of_extras() -> dict[str, str]:
    """By extra, the required packages that are not installed; {} where none is missing."""
    from packaging.requirements import Requirement  # a dependency of huggingface_hub

    try:
        listed = [Requirement(text) for text in requires("fusioner") or ()]
    except PackageNotFoundError:
        return {"fusioner": "not installed: the library is imported from a folder"}
    missing: dict[str, list[str]] = {}
    for requirement in listed:
        _, _, extra = str(requirement.marker or "").partition("extra == ")
        if extra and versions([requirement.name])[requirement.name] is None:
            missing.setdefault(extra.strip("\"'"), []).append(requirement.name)
    return {extra: ", ".join(names) for extra, names in missing.items()}


def data_sets(root: Path) -> dict[str, str]:
    """The data sets found in ``root`` and in its folders: by folder, their names, with counts if they were prepared."""
    from fusionerlib.datasets.download.catalogue import load_catalogue
    from fusionerlib.datasets.download.verify import manifest_file, read_manifest

    found: dict[str, str] = {}
    for folder in (root, *sorted(path for path in root.glob("*") if path.is_dir())):
        here = []
        for name, data in load_catalogue().items():
            if all(part.optional or part.look_in(folder) for part in data.layout.values()):
                manifest = read_manifest(manifest_file(folder, name))
                counts = {} if manifest is None else manifest.counts
                here.append(", ".join([name, *(f"{count:,} {part}" for part, count in counts.items())]))
        if (folder / "splits.json").is_file():
            here.append("openmoji (drawn)")
        if (folder / "images").is_dir() and ((folder / "masks").is_dir() or list(folder.glob("**/*.json"))):
            here.append("folder (your own)")
        if here:
            found[tilde(folder)] = "; ".join(here)
    return found


def torch_devices() -> Section:
    """Threads, the processor's vector instructions, bf16 among them, and the accelerators that torch sees."""
    import torch

    from fusionerlib.devices import bf16_instructions, has_native_bf16

    found: Section = {"threads": torch.get_num_threads(), "CPU instructions": torch.backends.cpu.get_cpu_capability()}
    found["bf16 on the CPU"] = ", ".join(bf16_instructions()) or "no instructions for it: float32 is faster"
    found["CUDA"] = [
        f"{gpu.name}, {size_text(gpu.total_memory)}, compute capability {gpu.major}.{gpu.minor}, "
        f"bf16 {'native' if has_native_bf16(f'cuda:{index}') else 'not native'}"
        for index in range(torch.cuda.device_count())
        for gpu in [torch.cuda.get_device_properties(index)]
    ] or f"no GPU (torch is built for {torch.version.cuda or 'no CUDA'})"
    found["MPS"] = torch.backends.mps.is_available()
    return found


def encoders_here() -> dict[str, str]:
    """By role, the names of the registry's encoders that can be loaded without a download, and how many there are."""
    from fusionerlib.encoders.registry import list_encoders
    from fusionerlib.encoders.weights import present

    found = {}
    for role in ("visual", "text"):
        rows = list_encoders(role)
        names = [row.name for row in rows if present(row)]
        found[role] = f"{len(names)} of {len(rows)}: {', '.join(names)}"
    return found


def free_disks() -> dict[str, str]:
    """Free disk where data, results and downloaded weights go."""
    import torch
    from huggingface_hub import constants

    folders = (DATA, Path("outputs"), Path(constants.HF_HUB_CACHE), Path(torch.hub.get_dir()))
    return {tilde(folder): free_disk(folder) for folder in folders}


def free_disk(folder: Path) -> str:
    """Free bytes on the disk of ``folder``, or of its nearest parent that exists."""
    # os.path.exists: what this user may not look into is no place of its own either.
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.exists(parent))
    return size_text(shutil.disk_usage(there).free) + ("" if there == folder.absolute() else " (no such folder yet)")


def tilde(path: Path) -> str:
    """``path`` with ``~`` for the home folder, whose name is often a person's."""
    home = Path(os.path.expanduser("~"))  # it stays "~" for a user without a home
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else path.as_posix()


def as_lines(section: Section) -> list[str]:
    """The entries of ``section`` as indented lines of at most ``WIDTH`` characters, where words allow it."""
    lines = []
    for key, value in section.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list):
            value = "; ".join(value)
        lines += textwrap.wrap(
            f"{key}: {value}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
