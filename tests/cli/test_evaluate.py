"""``fusioner evaluate``: refusals before torch is imported, and scores of a small drawn folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fusionerlib import Segmenter, checkpoints, read_folder
from fusionerlib.checkpoints import packaged_folder
from fusionerlib.cli.app import app
from fusionerlib.evaluation.scores import evaluate
from tests.evaluation.drawn import CLASSES, draw_folder

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("own") / "data")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "nowhere"], "--data nowhere is no folder"),
        (["--data", "FOLDER", "nothing"], "no checkpoint 'nothing'"),
        (["--data", "FOLDER", "packaged", "packaged"], "'packaged' is given twice"),
        (["--data", "FOLDER", "--names", "catt,zebra"], "labels none of the 2 names asked: did you mean 'cat'?"),
        (["--data", "FOLDER", "--names", "missing.txt"], "'missing.txt' is not a file"),
        (["--data", "FOLDER", "--threshold", "2"], "threshold 2.0 is outside 0-1"),
        (["--data", "FOLDER", "--threshold", "cow=0.2"], "threshold of 'cow', which is not asked for"),
        (["--data", "FOLDER", "--dataset", "pascall"], "dataset = 'pascall': expected one of 'pascal'"),
        (["--data", "FOLDER", "--dataset", "voc-20", "--split", "all"], "--split all with --dataset voc-20"),
        (["--data", "FOLDER", "--dataset", "voc-20"], "voc-20 root"),
        (["--data", "FOLDER", "-o", "FOLDER/names.txt"], "a file of this name is there; move it, or choose another"),
    ],
)
def test_refusals_are_one_line(folder: Path, arguments: list[str], told: str) -> None:
    result = runner.invoke(app, ["evaluate", *(one.replace("FOLDER", str(folder)) for one in arguments)])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and told in result.stderr


def test_a_refusal_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from fusionerlib.cli.app import app\n"
        f"try: app(['evaluate', '--data', {str(folder)!r}, '--names', 'zebra'])\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "labels none of" in done.stderr, done.stderr


def test_the_json_is_what_the_library_counts(folder: Path) -> None:
    result = runner.invoke(app, ["evaluate", "--data", str(folder), "--split", "all", "--json"])
    assert result.exit_code == 0, result.output

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(result.stdout, parse_constant=refuse)
    scores = evaluate(Segmenter.load("packaged"), read_folder(folder), quiet=True)
    assert found["images"] == 5 and found["names"] == sorted(CLASSES)
    (model,) = found["models"]
    assert model["figures"]["miou"]["value"] == pytest.approx(scores.figures["miou"].value)
    assert model["confusion"]["pixels"] == scores.confusion.tolist()
    assert model["names_of_training"] == 2 and model["unseen"] == ["armadillo"]


def test_two_checkpoints_are_compared_and_written(folder: Path, tmp_path: Path) -> None:
    # A model whose weights are noise is a checkpoint like any other.
    packaged = checkpoints.load(packaged_folder())
    generator = torch.Generator().manual_seed(0)
    for weight in packaged.model.parameters():
        torch.nn.init.normal_(weight, std=0.05, generator=generator)
    noise, out = tmp_path / "noise", tmp_path / "scores"
    checkpoints.save(noise, model=packaged.model, run=packaged.run, trained_names=packaged.trained_names)
    command = ["evaluate", "packaged", str(noise), "--data", str(folder), "--names", "cat,dog", "-o", str(out)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "mIoU, all classes" in result.stdout and f"written: {out / 'scores.html'}" in result.stdout
    found = json.loads((out / "scores.json").read_text())
    assert found["about"]["split"] == "val" and found["images"] == 1, "every fifth image, as training takes them"
    levels = [model["figures"]["miou"]["value"] for model in found["models"]]
    assert found["comparisons"][0]["figures"]["miou"]["difference"] == pytest.approx(np.diff(levels)[0])
    assert "<table>" in (out / "scores.html").read_text()
