"""The JSON files of a run: metrics, one record a notebook, the data's, the profile, the checkpoint's config."""

import json
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of a run, {} where there is none yet. Raises FusionerError where it is no JSON object."""
    file = folder / "metrics.json"
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FusionerError(f"{file} is no JSON ({error}): remove it and run the notebooks again") from error
    if not isinstance(values, dict):
        raise FusionerError(f"{file} holds a {type(values).__name__}, not an object: remove it and run again")
    return values


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; {} where it is missing, broken or something else.

    For what is only told: a page with a hole in its summary is worth more than none, and it shows the file as it is.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def part(values: Any, *keys: str) -> dict[str, Any]:
    """The object at ``keys`` inside nested ones, {} where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def notebook_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that notebooks wrote, by the notebook's name: those with a ``config``."""
    found = {file.stem: read_object(file) for file in sorted((folder / "records").glob("*.json"))}
    return {stem: record for stem, record in found.items() if part(record, "config")}


def run_settings(folder: Path) -> dict[str, Any]:
    """The sections of the run's config (pair, fusion, data, training), {} where nothing was trained."""
    trained = part(read_object(folder / "records" / "02_training.json"), "config", "run")
    return trained or part(read_object(folder / "checkpoint" / "config.json"), "run")


def record_files(folder: Path) -> list[Path]:
    """Every JSON file that says how the run came about, those of the top folder first, without the metrics."""
    top = sorted(file for file in folder.glob("*.json") if file.name != "metrics.json")
    found = [*top, folder / "checkpoint" / "config.json", *sorted((folder / "records").glob("*.json"))]
    return [file for file in found if file.is_file()]
