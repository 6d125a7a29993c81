"""A whole study of a few steps on made photographs: what its trainings leave, and what a second call takes over."""

import json
import math
from pathlib import Path

import pandas as pd

from studies.cost_aggregation.study import BASE, LEVELS, CostAggregationStudy
from studies.cost_aggregation.tables import by_seed, write_tables
from studies.photo_study import run_study
from tests.studies.test_pairs import data

__all__ = ["data"]


def test_a_study_trains_measures_and_is_not_trained_again(data: dict[str, Path], tmp_path: Path) -> None:
    settings = {"run_dir": str(tmp_path), "folds": (3,), "seeds": (0,), "settings": (), "steps": 2, "size": 64, **data}
    settings["jobs"] = 2  # in a process of its own; the pairs' study trains in this one
    study = CostAggregationStudy.model_validate(settings)
    (row,) = run_study(study, quiet=True)
    assert (row["setting"], row["fold"], row["seed"], row["steps"], row["images"]) == (BASE, 3, 0, 2, 24)
    assert math.isfinite(row["loss"]) and row["core seconds"] > 0 and list(row["at"]) == list(map(str, LEVELS))
    assert list(by_seed([row], BASE)) == [0]
    file = study.record(study.trials()[0])
    names = json.loads(file.read_text())["trained_names"]
    assert "zebra" in names and "couch" not in names, "the couch is of fold 3"
    assert not list((study.folder / "training").iterdir())
    before = file.stat().st_mtime_ns
    assert run_study(study, quiet=True) == [row] and file.stat().st_mtime_ns == before


def test_the_tables_are_written_in_markdown(tmp_path: Path) -> None:
    study = CostAggregationStudy(run_dir=str(tmp_path))
    table = pd.DataFrame({"setting": ["two views"], "gain": [1.25], "spread": [math.nan], "kept": [False]})
    file = write_tables(study, {"Seeds": table, "One thing at a time": table.set_index("setting")})
    assert file == tmp_path / "transfer" / "table.md"
    text = file.read_text()
    assert "| two views | 1.2 | - | no |" in text and text.index("## Seeds") < text.index(
        "\n## One thing at a time\n\n|"
    )
