"""Which records a study takes for its own, from records written by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionerlib.config import RunConfig
from fusionerlib.datasets.sets import load_datasets
from fusionerlib.digests import write_json
from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from fusionerlib.records import read_record, write_run_record
from studies.cost_aggregation.study import BASE, CostAggregationStudy, Trial
from studies.paper_grid.grid import Grid, record_of, require_grid_data, run_grid
from studies.photo_study import finished, rows_of, run_study
from tests.drawn_photos import draw_coco, draw_voc


def study(folder: Path, **changes: Any) -> CostAggregationStudy:
    return CostAggregationStudy(run_dir=str(folder), **{"folds": (1, 2), "seeds": (0,), **changes})


def recorded(folder: Path, **changes: Any) -> tuple[CostAggregationStudy, Trial]:
    """A study with a record of its first training."""
    made = study(folder, **changes)
    trial = made.trials()[0]
    write_run_record(made.record(trial), made.run_of(trial), measured={"parameters": 7})
    return made, trial


def test_only_what_has_a_record_is_finished_and_a_row(tmp_path: Path) -> None:
    made, trial = recorded(tmp_path)
    assert [other for other in made.trials() if finished(made, other)] == [trial]
    assert rows_of(made) == [{"setting": BASE, "fold": 1, "seed": 0, "steps": 600, "parameters": 7}]


def test_where_files_lie_does_not_make_another_study(tmp_path: Path) -> None:
    _, trial = recorded(tmp_path, voc_root=tmp_path / "voc", vectors=tmp_path / "v.parquet")
    assert finished(study(tmp_path, voc_root=Path("elsewhere"), coco_root=Path("there")), trial)


def test_a_record_of_other_settings_is_refused(tmp_path: Path) -> None:
    made, trial = recorded(tmp_path)
    with pytest.raises(FusionerError, match=r"runs/modern-steps600-fold1-seed0.json .*data.size was 320, is 64"):
        finished(study(tmp_path, size=64), trial)
    file = made.record(trial)
    # As if the recipe had another set of templates by now.
    other = file.read_text().replace('"templates": "none"', '"templates": "eight"')
    write_text(file, other)
    with pytest.raises(FusionerError, match=r"fold1-seed0.json can't be read as a record .*delete it"):
        finished(made, trial)
    write_json(file, json.loads(other))
    with pytest.raises(FusionerError, match=r"pair.templates was 'eight', is 'none'"):
        finished(made, trial)


def test_a_record_without_a_leaf_that_came_later_has_its_default(tmp_path: Path) -> None:
    made, trial = recorded(tmp_path)
    file = made.record(trial)
    record = read_record(file)
    assert record["config"]["pair"].pop("normalisation") == "encoder"
    write_json(file, record)
    assert finished(made, trial)
    record["config"]["pair"]["nobody_knows"] = 1
    write_json(file, record)
    with pytest.raises(FusionerError, match=r"fold1-seed0.json was written by another version .*nobody_knows"):
        finished(made, trial)


def test_vectors_are_asked_for_only_where_a_control_reads_them(tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"COCO \(.*; the text vectors"):
        study(tmp_path, voc_root=tmp_path, vectors=tmp_path / "v.parquet").require_data()
    study(tmp_path, voc_root=tmp_path, coco_root=tmp_path, settings=()).require_data()


def test_a_record_of_other_data_is_refused_by_studies_and_the_grid(tmp_path: Path) -> None:
    """A mask whose numbers are exchanged keeps its size; the record was measured on what was there before."""
    places = {"voc_root": draw_voc(tmp_path / "voc"), "coco_root": draw_coco(tmp_path / "coco")}
    (tmp_path / "v.parquet").touch()
    made = study(tmp_path / "study", vectors=tmp_path / "v.parquet", folds=(1,), settings=(), **places)
    leaves = {"root": str(places["voc_root"]), "dataset": "pascal", "fold": 1}
    grid = Grid(name="g", pairs=(("packaged", "packaged"),), fusions=("early",), folds=(1,), run=leaves)
    [job] = grid.jobs()
    run = RunConfig.flat(**grid.jobs()[job])
    shown = {"whole": {"miou": 0.5}, "sliding": {"miou": 0.5}}
    write_run_record(record_of(tmp_path / "grid", job), run, data=load_datasets(run.data).fingerprint, measured=shown)
    for trial in made.trials():
        own = made.run_of(trial)
        data = load_datasets(own.data).fingerprint
        write_run_record(made.record(trial), own, data=data, measured={"parameters": 7})
    assert len(run_study(made, quiet=True)) == len(made.trials())
    require_grid_data(grid, tmp_path / "grid")

    masks = sorted(places["voc_root"].rglob("SegmentationClass*/*.png"))
    pixels = np.array(Image.open(masks[0]))
    size = masks[0].stat().st_size
    Image.fromarray(np.where(pixels == pixels.max(), 0, pixels.max()).astype(np.uint8)).save(masks[0])
    masks[0].write_bytes(masks[0].read_bytes().ljust(size, b"\0"))
    for refused in (lambda: run_study(made, quiet=True), lambda: run_grid(grid, tmp_path / "grid")):
        with pytest.raises(FusionerError, match=r"changed after .* records were measured on them"):
            refused()
