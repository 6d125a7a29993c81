"""Options that change how a training step is worked out: each gives the plain step's losses, up to rounding."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fusionerlib.config import RunConfig
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel, build
from fusionerlib.training.loop import train
from fusionerlib.training.progress import TrainingProgress
from fusionerlib.training.resume import TrainingState
from tests.conftest import ROOT
from tests.launched import config, source_of, trained

PLAIN: dict[str, Any] = {"preset": "small", "dropout": 0.0, "steps": 3, "checkpoint_every": 3, "text_noise": 0.3}
MAPS: dict[str, Any] = {"kind": "cost_aggregation", "similarity": "learned", "dropout": 0.0, "steps": 3}
COMPILER = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(run: RunConfig, folder: Path) -> list[float]:
    return [row["loss"] for row in trained(run, folder)[1]]


@pytest.mark.parametrize("plain", [PLAIN, MAPS])
@pytest.mark.parametrize(
    ("changes", "off"),
    [
        ({"accumulate": 2}, 1e-5),
        ({"accumulate": 4}, 1e-5),
        ({"channels_last": True}, 1e-5),
        ({"mixed_precision": "bf16"}, 2e-2),
        ({"mixed_precision": "fp16"}, 5e-3),
    ],
)
def test_the_losses_are_those_of_a_plain_step(
    plain: dict[str, Any], changes: dict[str, Any], off: float, tmp_path: Path
) -> None:
    expected = losses(config(**plain), tmp_path / "plain")
    found = losses(config(**plain, **changes), tmp_path / "changed")
    assert found == pytest.approx(expected, abs=off) and len(set(expected)) == 3
    if "mixed_precision" in changes:
        assert found != expected, "nothing was rounded"


def test_the_parts_of_a_batch_have_its_gradients(tmp_path: Path) -> None:
    # AdamW's first moments after one step are a tenth of the gradients.
    moments = []
    for parts in (1, 4):
        sizes: list[int] = []

        def count(module: nn.Module, given: Any, logits: Any, sizes: list[int] = sizes) -> None:
            if isinstance(module, SegmentationModel):
                sizes.append(len(logits))

        with nn.modules.module.register_module_forward_hook(count):
            trained(config(**{**MAPS, "steps": 1, "warmup": 0}, accumulate=parts), tmp_path / str(parts))
        assert sizes == [4 // parts] * parts
        (kept,) = (tmp_path / str(parts)).glob("step-*/optimiser.safetensors")
        moments.append({key: value for key, value in load_file(kept).items() if key.endswith("exp_avg")})
    assert moments[0].keys() == moments[1].keys() and len(moments[0]) > 10
    for key, whole in moments[0].items():
        assert torch.allclose(whole, moments[1][key], rtol=1e-3, atol=1e-7 + 1e-4 * float(whole.abs().max())), key


def test_channels_last_lays_out_the_weights_and_resumes(tmp_path: Path) -> None:
    model, history = trained(config(**MAPS, channels_last=True), tmp_path)
    laid = [weight for weight in model.parameters() if weight.ndim == 4 and not weight.is_contiguous()]
    assert laid and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in laid)
    # The steps are over: what comes back is the kept checkpoint, written from tensors in this layout.
    kept, again = trained(config(**MAPS), tmp_path)
    assert again == history
    assert all(torch.equal(tensor, kept.state_dict()[key]) for key, tensor in model.state_dict().items())


@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_fusion_gives_the_plain_losses(tmp_path: Path) -> None:
    # In a process without the checks of shapes, which would be compiled too; the fusion with the fewest kernels.
    changes = {"kind": "spnet", "dropout": 0.0, "steps": 2}
    command = [sys.executable, "-m", "tests.launched", str(tmp_path), json.dumps({**changes, "compile_fusion": True})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_LOGS": "+graph_code"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "__compiled_fn" in done.stderr, "nothing was compiled"
    told = json.loads((tmp_path / "0.json").read_text())
    assert told["losses"] == pytest.approx(losses(config(**changes), tmp_path / "plain"), abs=1e-5)


def test_the_scale_of_half_precision_outlives_a_stop(tmp_path: Path) -> None:
    def running(scale: float) -> TrainingState:
        model = build(config(**PLAIN).fusion, visual_width=8, text_width=8)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return TrainingState(model, torch.optim.AdamW(model.parameters()), scaler, step=3, history=[{"step": 3}])

    running(8.0).save(tmp_path, {})
    again = running(1024.0)
    again.resume(tmp_path, {})
    assert again.scaler is not None and again.scaler.get_scale() == 8.0


def test_tensorboard_has_every_step_and_takes_back_what_a_stop_lost(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is in the extra `runs`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 7)]
    with TrainingProgress(total=6, done=0, batch=8, quiet=True, tensorboard=tmp_path) as watch:
        for row in rows[:5]:
            watch.step({**row, "loss": 9.0} if row["step"] > 4 else row)
    with TrainingProgress(total=6, done=4, batch=8, quiet=True, tensorboard=tmp_path) as watch:
        for row in rows[4:]:
            watch.step({**row, "miou": 0.5} if row["step"] == 6 else row)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "training/loss", "training/lr", "training/images/s", "validation/miou"
    }  # fmt: skip
    found = [(event.step, event.value) for event in events.Scalars("training/loss")]
    assert found == [(step, pytest.approx(1 / step)) for step in range(1, 7)]
    assert [(event.step, event.value) for event in events.Scalars("validation/miou")] == [(6, 0.5)]
    assert all(event.value > 0 for event in events.Scalars("training/images/s"))


def test_a_training_writes_its_scalars_beside_its_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is in the extra `runs`")
    trained(config(**PLAIN, tensorboard=True), tmp_path)
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    assert events.stat().st_size > 100


def test_headless_progress_is_plain_lines_with_images_per_second_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUSIONER_HEADLESS", "1")
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with TrainingProgress(total=1000, done=900, batch=8) as watch:
        for step in range(901, 1001):
            now += 4.0
            watch.step({"step": step, "loss": 0.25, "lr": 1e-3})
    lines = capsys.readouterr().err.splitlines()
    # Two images a second and 4 s a step: 97 steps are left after 12 s.
    assert lines[0] == (
        "training: 90%, 903 of 1000 steps, 0.2 steps/s, 00:12 gone, 06:28 left, loss 0.250, images_s 2.0"
    )
    assert lines[-1] == ("training: 100%, 1000 of 1000 steps, 0.2 steps/s, 06:40 gone, loss 0.250, images_s 2.0")
    gaps = [int(after.split()[2]) - int(before.split()[2]) for before, after in pairwise(lines[:-1])]
    assert min(gaps) == 3 and max(gaps) == 5, "a twentieth of the time so far, ten seconds at least"


def test_an_unknown_number_of_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"batch of 4 can't be shared equally by 1 process, each in 3 parts"):
        trained(config(**PLAIN, accumulate=3), tmp_path)


@pytest.mark.parametrize(("warmup", "told"), [(1, ""), (2, "ends at 0.0005"), (30, "ends at 3.3e-05")])
def test_a_warm_up_that_is_longer_than_the_training_is_told(
    warmup: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config(steps=2, lr=0.001, warmup=warmup)
    text_cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
    _, history = train(
        run=run, source=source_of(run, tmp_path / "store"), text_cache=text_cache, directory=tmp_path / "training"
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "warm-up" in line]
    assert len(lines) == bool(told) and all(told in line for line in lines), lines
    if told:
        assert f"ends at {history[-1]['lr']:.2g} instead of rising to 0.001" in lines[0]
