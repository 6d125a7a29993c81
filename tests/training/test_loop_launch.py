"""`fusioner train`, and the same from a notebook by accelerate's launcher: one checkpoint, one history."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib import checkpoints
from fusionerlib.cli.app import app
from fusionerlib.config import RunConfig
from fusionerlib.runs import fit
from tests.conftest import ROOT
from tests.training.test_resume import ENVIRONMENT, free_port

NOTEBOOK = """
import sys
from accelerate import notebook_launcher
from fusionerlib.config import RunConfig
from fusionerlib.runs import fit

run = RunConfig.model_validate_json(sys.argv[1])
notebook_launcher(fit, (run, sys.argv[2]), num_processes=2, use_port=sys.argv[3])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one's own with eight pictures of noise, the left half of each a thing."""
    root = tmp_path_factory.mktemp("own")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{seed}.png")
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[:, :24] = 1 + seed % 3
        Image.fromarray(mask).save(root / f"masks/{seed}.png")
    (root / "names.txt").write_text("cat\ndog\nblue sofa\n")
    return root


def leaves(data: Path, features: Path) -> dict[str, Any]:
    run = {"dataset": "folder", "root": str(data), "features": str(features), "size": 64, "text": "arbitrary"}
    return {**run, "width": 16, "heads": 2, "depth": 1, "decoder_width": 8, "dropout": 0.0, "steps": 3, "batch": 4}


def history(folder: Path) -> list[float]:
    return [row["loss"] for row in json.loads((folder / "records" / "training.json").read_text())["history"]]


def test_a_notebook_s_two_processes_end_where_the_command_line_s_one_does(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several processes need the extra `runs`")
    given = [f"--set={name}={value}" for name, value in leaves(data, tmp_path / "features").items()]
    result = CliRunner().invoke(app, ["train", "-o", str(tmp_path / "one"), "--device", "cpu", *given])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"checkpoint: {tmp_path / 'one' / 'checkpoint'}\n"
    checkpoint = checkpoints.load(tmp_path / "one" / "checkpoint")
    assert checkpoint.trained_names == ("blue sofa", "cat", "dog") and checkpoint.run.training.steps == 3

    # Features of their own, so that the two processes extract them too.
    run = checkpoint.run.changed(features=tmp_path / "again")
    (tmp_path / "cells.py").write_text(NOTEBOOK)
    command = [sys.executable, str(tmp_path / "cells.py"), run.model_dump_json(), str(tmp_path / "two"), free_port()]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "two" / "records" / "training.json").read_text())
    assert record["processes"] == 2 and done.stderr.count("3 of 3 steps") == 1, "the main process alone shows progress"
    assert history(tmp_path / "two") == pytest.approx(history(tmp_path / "one"), abs=1e-5)
    assert len(history(tmp_path / "one")) == 3


def test_a_record_holds_the_steps_that_the_epochs_made(data: Path, tmp_path: Path) -> None:
    """Six of the pictures train, four a batch: two steps an epoch, the last of two."""
    run = RunConfig.flat(**{**leaves(data, tmp_path / "features"), "epochs": 2, "warmup_epochs": 1, "batch": 4})
    made = checkpoints.load(fit(run, tmp_path / "made", device="cpu", quiet=True)).run.training
    record = json.loads((tmp_path / "made" / "records" / "training.json").read_text())
    written = record["config"]["training"]
    assert (made.steps, made.warmup, made.epochs) == (4, 2, 2)
    assert (written["steps"], written["warmup"], len(record["history"])) == (4, 2, 4)


def test_a_run_s_own_config_is_read_and_changed(data: Path, tmp_path: Path) -> None:
    given = [f"--set={name}={value}" for name, value in leaves(data, tmp_path / "features").items()]
    command = ["train", "-o", str(tmp_path / "a"), "--device", "cpu", *given, "--set=steps=1"]
    assert CliRunner().invoke(app, command).exit_code == 0
    kept = str(tmp_path / "a" / "checkpoint" / "config.json")
    again = CliRunner().invoke(app, ["train", kept, "-o", str(tmp_path / "b"), "--device", "cpu", "--set", "lr=2e-3"])
    assert again.exit_code == 0, again.stderr
    one, other = (checkpoints.load(tmp_path / name / "checkpoint").run for name in "ab")
    assert other == one.model_copy(update={"training": one.training.model_copy(update={"lr": 2e-3})})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.json"], "missing.json can't be read"),
        (["--set", "stpes=3"], "unknown parameter 'stpes' = 3: did you mean 'steps'?"),
    ],
)
def test_what_can_t_be_trained_is_told(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 2 and told in result.stderr


def test_several_processes_without_accelerate_name_the_remedy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['accelerate'] = None\n"
        "from fusionerlib.errors import FusionerError\n"
        "from fusionerlib.training.distributed import Distributed\n"
        "try: Distributed.joined()\n"
        "except FusionerError as error: print(error)"
    )
    environment = {**os.environ, "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "pip install 'fusioner[runs]'" in done.stdout, done.stderr
