"""The paper's grid: what it is made of, and a real one of a few steps that fails in part, goes on and resumes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib import checkpoints
from fusionerlib.cli.app import app
from fusionerlib.config import RunConfig
from fusionerlib.datasets.pascal import fold_classes, training_images, validation_pairs
from fusionerlib.errors import FusionerError
from studies.paper_grid.grid import Grid, markdown, record_of, rows_of
from studies.published import rows as published_rows
from tests.datasets.test_pascal import save_mask

PAPER = {
    "CLIP-B": "clip-vit-b16", "CLIP-L": "clip-vit-l14", "DINO-B": "dino-vitb16", "MoCo-B": "mocov3-vitb16",
    "BERT-B": "bert-base", "BERT-L": "bert-large",
}  # fmt: skip
"""Encoders as the paper's table names them, and our names."""


def test_the_paper_s_grid_is_its_table() -> None:
    grid = Grid.load("paper")
    jobs = grid.jobs()
    assert len(jobs) == 96
    table = [row for row in published_rows("pascal-5i") if row.text]
    asked = {(leaves["visual"], leaves["text"], leaves["kind"]) for leaves in jobs.values()}
    kinds = {"early": "fusioner", "late": "late"}
    assert asked == {(PAPER[row.visual], PAPER[row.text], kinds[row.fusion]) for row in table} and len(asked) == 24
    for leaves in jobs.values():
        run = RunConfig.flat(**leaves)
        assert (run.training.epochs, run.training.warmup_epochs, run.training.feed) == (510, 10, "online")
        assert (run.fusion.depth, run.fusion.width, run.training.batch, run.training.negatives) == (12, 512, 32, 0)


def test_settings_reach_the_grid_or_its_runs() -> None:
    grid = Grid.load("paper", {"folds": [1], "steps": 3, "visual_weights": "w"})
    assert len(grid.jobs()) == 24 and {leaves["steps"] for leaves in grid.jobs().values()} == {3}
    assert RunConfig.flat(**next(iter(grid.jobs().values()))).training.epochs == 0
    assert "dino-vitb16" not in grid.missing()
    with pytest.raises(FusionerError, match="unknown parameter 'stpes' = 3: did you mean 'steps'"):
        Grid.load("paper", {"stpes": 3})
    with pytest.raises(FusionerError, match="no grid 'papers'"):
        Grid.load("papers")
    with pytest.raises(FusionerError, match="clip-vit-b61"):
        Grid.load("paper", {"pairs": [["clip-vit-b61", "bert-base"]]}).missing()


def test_a_mean_stands_only_beside_four_folds(tmp_path: Path) -> None:
    grid = Grid(name="g", pairs=(("a", "b"),), fusions=("early",))
    for fold, level in enumerate((0.5, 0.25, 0.75, 0.5)):
        assert rows_of(grid, tmp_path)[0]["mean"] is None
        file = record_of(tmp_path, f"a.b.early.fold{fold}")
        file.parent.mkdir(exist_ok=True)
        measured = {"whole": {"miou": level}, "sliding": {"miou": level / 2}}
        file.write_text(json.dumps({"measured": measured}))
    assert markdown(rows_of(grid, tmp_path)).split("\n")[2:] == [
        "| a | b | early | whole | 50.0 | 25.0 | 75.0 | 50.0 | 50.0 |",
        "| a | b | early | sliding | 25.0 | 12.5 | 37.5 | 25.0 | 25.0 |",
    ]
    file.write_text(json.dumps({"measured": {"miou": 0.5}}))
    with pytest.raises(FusionerError, match="has no figures for 'whole': delete it"):
        rows_of(grid, tmp_path)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of noise under names of the lists of folds 2 and 3, the left half of each labelled."""
    root = tmp_path_factory.mktemp("voc")
    train = zip(training_images(), (*fold_classes(2), *fold_classes(3)), strict=False)
    lists = [*train, *validation_pairs(2)[:4], *validation_pairs(3)[:4]]
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).mkdir()
    for seed, (key, number) in enumerate(lists):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"JPEGImages/{key}.jpg")
        raw = np.zeros((40, 48))
        raw[:, :24] = number
        save_mask(root / f"SegmentationClassAug/{key}.png", raw)
    return root


def command(voc: Path, folder: Path, **settings: Any) -> list[str]:
    """`fusioner grid` for the packaged pair on fold 3, and a pair whose weights nobody has."""
    missing = str(folder.parent / "no-such-weights.parquet")
    mine = {
        "name": "tiny",
        "pairs": [["packaged", "packaged"], ["packaged", f"vectors:{missing}"]],
        "folds": [3],
        "run": {"dataset": "pascal", "root": str(voc), "features": str(folder.parent / "features"), "size": 64}
        | {"steps": 2, "batch": 2, "width": 16, "heads": 2, "depth": 2, "decoder_width": 8},
    }
    file = folder.parent / "tiny.json"
    file.write_text(json.dumps(mine))
    given = [f"--set={key}={value}" for key, value in settings.items()]
    return ["grid", "--grid", str(file), "-o", str(folder), "--jobs", "2", "--threads", "1", "--device", "cpu", *given]


def test_a_dry_run_lists_the_trainings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("snakemake", reason="graphs of runs need the extra `runs`")
    result = CliRunner().invoke(app, ["grid", "--dry-run", "-o", str(tmp_path / "grid")])
    assert result.exit_code == 0, result.stderr
    told = capfd.readouterr()
    assert any(line.split() == ["training", "96"] for line in (told.out + told.err).split("\n"))
    for inference in ("whole", "sliding"):
        assert result.stdout.count(f"| early | {inference} |") == 12
    assert not (tmp_path / "grid" / "records").exists()


def test_a_grid_goes_on_past_failures_and_resumes(voc: Path, tmp_path: Path) -> None:
    pytest.importorskip("snakemake", reason="graphs of runs need the extra `runs`")
    folder = tmp_path / "grid"
    result = CliRunner().invoke(app, command(voc, folder, fusions='["early"]'))
    assert result.exit_code == 2
    assert "1 of 2 trainings have no record" in result.stderr
    assert "1 x " in result.stderr and "no-such-weights.parquet" in result.stderr
    early, late = (f"packaged.packaged.{fusion}.fold3" for fusion in ("early", "late"))
    made = record_of(folder, early).stat().st_mtime_ns

    result = CliRunner().invoke(app, command(voc, folder, pairs='[["packaged","packaged"]]'))
    assert result.exit_code == 0, result.stderr
    assert record_of(folder, early).stat().st_mtime_ns == made, "what has a record stays"
    assert result.stdout.count("| packaged | packaged |") == 4, "early and late, whole and sliding"
    assert (folder / "table.md").read_text().strip() == result.stdout.strip()
    listed = {number for _, number in validation_pairs(3)[:4]}
    for job, kind in ((early, "fusioner"), (late, "late")):
        record = json.loads(record_of(folder, job).read_text())
        assert record["config"]["fusion"]["kind"] == kind and record["config"]["data"]["fold"] == 3
        measured = record["measured"]
        assert measured["pairs"] == 4
        for inference in ("whole", "sliding"):
            found = measured[inference]
            assert len(found["classes"]) == len(listed)
            assert np.nanmean(list(found["classes"].values())) == pytest.approx(found["miou"])
        assert checkpoints.load(folder / "checkpoints" / job).run.fusion.kind == kind
    assert not list((folder / "training").glob("packaged.packaged.*"))


def test_an_executor_that_is_not_installed_names_the_remedy(voc: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*command(voc, tmp_path / "grid"), "--executor", "no-such-cluster"])
    assert result.exit_code == 2
    assert "pip install snakemake-executor-plugin-no-such-cluster" in result.stderr
