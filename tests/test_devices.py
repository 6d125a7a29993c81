"""Devices by name, and a run that trains and is measured on a GPU, where there is one, as on the CPU."""

from pathlib import Path

import pytest
import torch

from fusionerlib import checkpoints
from fusionerlib.devices import chosen_device
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import present_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.context import RunContext
from fusionerlib.runs import train_run
from tests.small_runs import drawn, small_run
from workbook.notebook import EvaluationNotebook, TrainingNotebook


def test_a_device_is_chosen_by_name() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    assert chosen_device("").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(FusionerError, match=rf"device '{name}' can't be used here .*give cpu"):
            chosen_device(name)


def test_a_notebook_is_told_of_a_device_that_is_not_there() -> None:
    assert EvaluationNotebook.from_namespace({"device": ""}).device == str(chosen_device(""))
    with pytest.raises(FusionerError, match=r"device = 'cuda:99'.*can't be used here"):
        TrainingNotebook.from_namespace({"device": "cuda:99", "steps": 3})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_trains_and_measures_what_a_cpu_does(tmp_path: Path) -> None:
    root, losses, figures = drawn(tmp_path / "things"), {}, {}
    for device in ("cpu", "cuda"):
        run = small_run(tmp_path / device, root, steps=3, dropout=0.0, text_noise=0.0)
        context = RunContext(run, device)
        trained = train_run(context, directory=tmp_path / device / "training", quiet=True)
        losses[device] = [row["loss"] for row in trained.history]
        checkpoints.save(tmp_path / device / "made", model=trained.checkpoint.model, run=run, trained_names=())
        context, loaded = RunContext.of_checkpoint(tmp_path / device / "made", device=device)
        assert loaded.model.device.type == device
        stored = context.features(context.sets.tests["seen"])
        figures[device] = evaluate(
            loaded.model, stored, context.text_cache, present_queries(stored), quiet=True
        ).counts.fb_iou
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-2)
    assert figures["cuda"] == pytest.approx(figures["cpu"], abs=0.05)
