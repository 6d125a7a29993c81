"""A whole study of a few steps on made photographs: what its trainings leave, and what a second call takes over."""

import json
import math
from pathlib import Path

from fusionerlib.transfer.runs import LEVELS, compare
from fusionerlib.transfer.study import BASE, TransferStudy
from fusionerlib.transfer.table import by_seed
from tests.test_pairs import data

__all__ = ["data"]


def test_a_study_trains_measures_and_is_not_trained_again(data: dict[str, Path], tmp_path: Path) -> None:
    settings = {"run_dir": str(tmp_path), "folds": (3,), "seeds": (0,), "settings": (), "steps": 2, "size": 64, **data}
    study = TransferStudy.model_validate(settings)
    (row,) = compare(study, quiet=True)
    assert (row["setting"], row["fold"], row["seed"], row["steps"], row["images"]) == (BASE, 3, 0, 2, 24)
    assert math.isfinite(row["loss"]) and row["core seconds"] > 0 and list(row["at"]) == list(map(str, LEVELS))
    assert by_seed([row], BASE)[0]["core seconds"] == row["core seconds"]
    file = study.record(study.trials()[0])
    names = json.loads(file.read_text())["trained_names"]
    assert "zebra" in names and "couch" not in names, "the couch is of fold 3"
    assert not list((study.folder / "training").iterdir())
    before = file.stat().st_mtime_ns
    assert compare(study, quiet=True) == [row] and file.stat().st_mtime_ns == before
