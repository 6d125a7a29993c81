"""NaN in a training: which of features, text, loss and gradient it was, what is kept, and the step done again."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from fusionerlib.cli.app import app
from fusionerlib.encoders.base import VisualTokens
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models.fusioner import Fusioner
from fusionerlib.training import replay as replaying
from fusionerlib.training.batch_sources import Batch, OnlineBatchSource, StoredBatchSource
from fusionerlib.training.loop import train
from fusionerlib.training.replay import replay
from tests.launched import Squares, config
from tests.shapes import Shapes

STEPS = 6


class Poisoned(StoredBatchSource):
    """The stored shapes, with ``value`` among the features of one scene from step ``at`` on."""

    def __init__(self, folder: Path, *, value: float, at: int) -> None:
        super().__init__(FeatureStore(folder, encoder=Squares()).add(Shapes(13), quiet=True))
        self.value, self.at = value, at

    def batches(self, order: Any, steps: range) -> Any:
        for step, batch in zip(steps, super().batches(order, steps), strict=True):
            tokens = batch.tokens.clone()
            if step >= self.at:
                tokens[2, 0, 0, 0] = self.value
            yield Batch(tokens, batch.labels, batch.names, batch.samples)


def run_in(folder: Path, source: Any, **changes: Any) -> FusionerError:
    """The error that a training of six steps with a running checkpoint every second ends with."""
    cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
    with pytest.raises(FusionerError) as told:
        train(
            run=config(**{"steps": STEPS, "checkpoint_every": 2, **changes}),
            source=source,
            text_cache=cache,
            directory=folder,
            quiet=True,
        )
    return told.value


def all_finite(folder: Path) -> bool:
    files = [file for file in folder.rglob("*.safetensors") if file.parent != folder]
    parts = [part for file in files for part in load_file(file).values()]
    return bool(parts) and all(bool(torch.isfinite(part.float()).all()) for part in parts)


@pytest.mark.parametrize("kind", ["fusioner", "cost_aggregation"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [3, STEPS - 1])
def test_features_that_are_not_finite_are_named_and_the_learning_rate_is_not(
    kind: str, value: float, at: int, tmp_path: Path
) -> None:
    source = Poisoned(tmp_path / "store", value=value, at=at)
    error = str(run_in(tmp_path / "training", source, kind=kind, similarity="learned"))
    assert f"stopped in step {at + 1}, before it changed the weights: features not finite" in error
    assert "step-0000002 is kept" in error if at == 3 else "step-0000004 is kept" in error
    assert f"delete {source.scenes.store.folder} and run again" in error and "lower lr" not in error
    (file,) = (tmp_path / "training").glob("stopped-*.safetensors")
    found = replay(file)
    assert (found.step, found.recorded, found.stage) == (at + 1, "features", "features")
    assert found.culprits == (found.scenes[2],) and "shapes/" in found.scenes[2] and "box" in found.scenes[2]
    assert all(scene in error for scene in found.scenes)
    assert all_finite(tmp_path / "training")
    told = CliRunner().invoke(app, ["replay", str(file), "--device", "cpu"])
    assert told.exit_code == 0 and told.output.count("<- not finite on its own") == 1, told.output


def test_the_remedy_of_damaged_features_works(tmp_path: Path) -> None:
    """The training goes on from the running checkpoint, to the weights of one that was never disturbed."""
    run_in(tmp_path / "training", Poisoned(tmp_path / "store", value=math.nan, at=3))
    cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
    source = StoredBatchSource(FeatureStore(tmp_path / "store", encoder=Squares()).add(Shapes(13), quiet=True))
    both = [
        train(
            run=config(steps=STEPS, checkpoint_every=2),
            source=source,
            text_cache=cache,
            directory=tmp_path / name,
            quiet=True,
        )[0].state_dict()
        for name in ("training", "straight")
    ]
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


class Explosive(Fusioner):
    """The model with one more weight, through which the loss or its gradient leaves float32 when it is asked to."""

    how = ""

    def forward(self, *given: Any, **named: Any) -> Any:
        logits = super().forward(*given, **named)
        weight = next(self.parameters()).flatten()[0]
        if self.how == "loss":
            return logits * (weight * 0 + 1e38) * 1e38
        if self.how == "gradient":
            return logits + ((weight - weight).abs() ** 0.5).to(logits.dtype)
        return logits


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_loss_and_gradient_are_told_apart_and_the_weights_stay(
    how: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step too, whose gradient alone is not finite: its loss looks well, and its weights would be NaN."""
    import fusionerlib.training.loop as loop

    def explosive(*given: Any, **named: Any) -> Any:
        model = loop_build(*given, **named)
        model.__class__ = Explosive
        return model

    loop_build = loop.build
    monkeypatch.setattr(loop, "build", explosive)
    monkeypatch.setattr(replaying, "build", explosive)
    source = StoredBatchSource(FeatureStore(tmp_path / "store", encoder=Squares()).add(Shapes(13), quiet=True))

    class Late(StoredBatchSource):
        def batches(self, order: Any, steps: range) -> Any:
            for step, batch in zip(steps, super().batches(order, steps), strict=True):
                monkeypatch.setattr(Explosive, "how", how if step == STEPS - 1 else "")
                yield batch

    folder = tmp_path / "training"
    error = str(run_in(folder, Late(source.scenes), mixed_precision=precision))
    assert f"stopped in step {STEPS}, before it changed the weights: {how} not finite" in error
    assert "Set a lower lr (now 0.001)" in error and "give that training another folder, or delete" in error
    assert ("mixed_precision = 'no'" in error) == (precision == "bf16")
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-0000002", "step-0000004"]
    assert all_finite(folder)
    (file,) = folder.glob("stopped-*.safetensors")
    found = replay(file)
    assert (found.recorded, found.stage) == (how, how)
    monkeypatch.setattr(Explosive, "how", "")
    assert replay(file).stage == "", "on a machine where all is well, it says so"


class NaNTower(Squares):
    """A tower that gives NaN for the picture that is brightest."""

    def __call__(self, images: Tensor, *, outside: Tensor | None = None) -> VisualTokens:
        made = super().__call__(images)
        made.maps["last"].tokens[int(images.float().mean((1, 2, 3)).argmax())] = math.nan
        return made


def test_an_encoder_that_gives_nan_is_named_in_the_online_feed(tmp_path: Path) -> None:
    source = OnlineBatchSource(Shapes(13), encoder=NaNTower(), augmentation="pascal", size=64)
    error = str(run_in(tmp_path / "training", source, feed="online", workers=0))
    assert "step 1" in error and "features not finite" in error and "there is no running checkpoint yet" in error
    assert "set precision to float32" in error and "lower lr" not in error
    assert len(replay(next((tmp_path / "training").glob("stopped-*"))).culprits) == 1


def test_text_tokens_that_are_not_finite_are_named(tmp_path: Path) -> None:
    source = StoredBatchSource(FeatureStore(tmp_path / "store", encoder=Squares()).add(Shapes(13), quiet=True))
    encoder = load_text("arbitrary")

    class Broken:
        name, width, space, fingerprint = encoder.name, encoder.width, encoder.space, "broken"

        def __call__(self, names: Any, templates: Any) -> Tensor:
            tokens = encoder(names, templates).clone()
            tokens[list(names).index("red box")] = math.nan
            return tokens

    cache = TextEmbeddingCache(encoder=Broken(), templates=["{}"])  # type: ignore[arg-type]
    with pytest.raises(FusionerError, match=r"text tokens not finite .*delete the files words-"):
        train(run=config(), source=source, text_cache=cache, directory=tmp_path / "training", quiet=True)


def test_a_file_that_is_no_stopped_step_is_refused(tmp_path: Path) -> None:
    run_in(tmp_path / "training", Poisoned(tmp_path / "store", value=math.nan, at=1))
    (file,) = (tmp_path / "training").glob("stopped-*")
    content = bytearray(file.read_bytes())
    for place in (3, 60, len(content) // 2, len(content) - 2):
        content[place] ^= 4
        file.write_bytes(content)
        content[place] ^= 4
        with pytest.raises(FusionerError, match=r"can't be read as a step .*stopped-"):
            replay(file)
    with pytest.raises(FusionerError, match="can't be read as a step"):
        replay(tmp_path / "nothing.safetensors")


def test_a_step_of_a_model_with_examples_is_done_again(tmp_path: Path) -> None:
    source = Poisoned(tmp_path / "store", value=math.nan, at=3)
    run_in(tmp_path / "training", source, kind="cost_aggregation", similarity="learned", examples=True)
    found = replay(next((tmp_path / "training").glob("stopped-*")))
    assert found.stage == "features" and found.culprits


def edited(file: Path, target: Path, facts: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """The step in ``file`` with other facts or tensors, and a digest made for them."""
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["facts"])
        parts = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    for name, change in tensors.items():
        parts[name] = change(parts[name].nan_to_num()).contiguous()
    text = json.dumps({**told, **facts})
    save_file(parts, target, metadata={"facts": text, "digest": replaying._digest(text, parts)})
    return target


OTHER_FACTS: list[dict[str, Any]] = [
    *({"step": value} for value in (-5, 0, "x", None)),
    *({"stage": value} for value in ("nonsense", 3)),
    *({"visual_width": value} for value in (10**12, -1, 0, True, 10**6)),
    *({"samples": value} for value in ([], [[0, ["a"]]], "abc")),
    *({"names": value} for value in ([], [["x"]], 3)),
    *({"scenes": value} for value in ([], ["a"] * 50, 3)),
    *({"run": value} for value in ({}, None)),
]
CHANGES: dict[str, Any] = {
    "flat": lambda part: part.reshape(-1),
    "double": lambda part: part.double(),
    "half": lambda part: part.half(),
    "whole": lambda part: part.to(torch.int32),
    "one": lambda part: part[:1],
    "none": lambda part: part[:0],
    "twice": lambda part: torch.cat([part, part]),
    "scalar": lambda part: torch.zeros(()),
}


def test_a_step_whose_parts_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    """A file of others, whose digest fits: 38 of 117 such gave tracebacks, one took 2 GB and did not end."""
    run_in(tmp_path / "training", Poisoned(tmp_path / "store", value=math.nan, at=1))
    (file,) = (tmp_path / "training").glob("stopped-*")
    wide = json.loads(json.dumps(config(width=16_000).model_dump(mode="json")))
    cases = [(facts, {}) for facts in [*OTHER_FACTS, {"run": wide}]]
    for name in ("tokens", "labels", "text", "names_mask", "rng"):
        cases += [({}, {name: CHANGES[how]}) for how in CHANGES if (name, how) != ("rng", "flat")]  # it is flat
    for facts, tensors in cases:
        with pytest.raises(FusionerError, match=r"stopped-\*|version of the library"):
            replay(edited(file, tmp_path / "other.safetensors", facts, tensors))
    assert replay(edited(file, tmp_path / "same.safetensors", {}, {})).stage == "features"
    healed = edited(file, tmp_path / "healed.safetensors", {}, {"tokens": lambda part: part})
    assert replay(healed).stage == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a POSIX pipe")
def test_a_pipe_is_no_stopped_step(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FusionerError, match="a pipe or a device"):
        replay(tmp_path / "pipe")
