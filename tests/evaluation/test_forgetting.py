"""Forgetting on the names of the checkpoint that a training started from: measured, recorded, warned about."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fusionerlib import checkpoints
from fusionerlib.evaluation.forgetting import Forgetting, measure_forgetting
from fusionerlib.features.context import RunContext
from fusionerlib.runs import fit
from tests.small_runs import drawn, small_run


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder, drawn things in it, and a checkpoint that claims five names more than it was trained on."""
    folder = tmp_path_factory.mktemp("parent")
    root = drawn(folder / "things")
    made = checkpoints.load(fit(small_run(folder, root, steps=2), folder / "run", quiet=True))
    names = [*made.trained_names, "lamp", "chair", "fork", "train", "lake"]
    checkpoints.save(folder / "parent", model=made.model, run=made.run, trained_names=names)
    return folder, root, folder / "parent"


def test_still_weights_forget_nothing_and_fast_ones_are_warned_about(parent, tmp_path, capsys) -> None:
    folder, root, checkpoint = parent
    still = {"lr": 1e-12, "final_lr": 0.0, "weight_decay": 0.0, "final_weight_decay": 0.0}
    found, told = {}, {}
    for name, leaves in (("still", still), ("fast", {"steps": 40, "lr": 5e-3})):
        fit(small_run(folder, root, init=str(checkpoint), **leaves), tmp_path / name, quiet=True)
        told[name] = capsys.readouterr().err
        record: dict[str, Any] = json.loads((tmp_path / name / "records" / "training.json").read_text())
        found[name] = record["forgetting"]
    assert found["still"]["points"] == pytest.approx(0, abs=0.01) and "warning" not in told["still"]
    assert found["still"]["before"] == pytest.approx(found["still"]["after"], abs=1e-4)
    assert found["fast"]["others"] >= 5 and found["fast"]["points"] > 3
    assert f"{found['fast']['points']:.1f} points of the old names are forgotten" in told["fast"]
    assert "rehearsal=10, which is off" in told["fast"] and "lr (now 0.005)" in told["fast"]

    # The same by hand.
    run = small_run(folder, root)
    context = RunContext(run)
    scenes = context.features(next(iter(context.sets.tests.values())), quiet=True)
    old = set(checkpoints.load(checkpoint).trained_names)
    shown = sorted({name for index in range(len(scenes)) for name in scenes.names(index)})
    text = context.text_cache.tokens(sorted(old - set(shown)))
    answers = []
    for place in (checkpoint, tmp_path / "fast" / "checkpoint"):
        tokens, labels = scenes.batch(range(len(scenes)))
        model, size = checkpoints.load(place).model, tuple(labels.shape[1:])
        with torch.no_grad():
            words = text.expand(len(tokens), -1, -1)
            answers.append(model(tokens.flatten(1, 2), words, grid=tuple(tokens.shape[1:3]), size=size).sigmoid())
    apart = float((answers[0] - answers[1]).abs().mean())
    assert found["fast"]["agreement"] == pytest.approx(1 - apart, abs=1e-4)


def test_without_an_old_name_there_is_nothing_to_report(parent) -> None:
    folder, root, checkpoint = parent
    context = RunContext(small_run(folder, root))
    scenes = context.features(next(iter(context.sets.tests.values())), quiet=True)
    model = checkpoints.load(checkpoint).model
    assert measure_forgetting(model, model, scenes, context.text_cache, old_names=()) is None


def test_a_gain_is_no_forgetting_and_the_remedy_is_the_runs_own(parent) -> None:
    folder, root, checkpoint = parent
    gained = Forgetting(("cat",), 0.5, 0.6, 0, None, 9)
    assert gained.points == 0 and "0.500 before, 0.600 after" in gained.report(small_run(folder, root))
    lost = Forgetting((), None, None, 7, 0.95, 9)
    run = small_run(folder, root, init=str(checkpoint), rehearsal=4.0)
    assert lost.points == pytest.approx(5) and "rehearsal=8, now 4" in lost.report(run)
