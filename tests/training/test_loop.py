"""Training learns, resumes to the same weights, and keeps its hands off what is frozen."""

import pytest
import torch

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig, TrainingConfig
from fusionerlib.datasets.sampling import Sample
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import present_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import build
from fusionerlib.training.batch_sources import OnlineBatchSource, StoredBatchSource
from fusionerlib.training.loop import train
from fusionerlib.training.optimisers import make_optimiser, set_schedule
from fusionerlib.training.resume import TrainingState
from fusionerlib.training.steps import name_masks
from tests.shapes import Shapes


@pytest.fixture(scope="module")
def visual():
    return load_visual("packaged")


@pytest.fixture(scope="module")
def text_cache():
    return TextEmbeddingCache(encoder=load_text("packaged"), templates=["{}"])


@pytest.fixture(scope="module")
def scenes(visual, tmp_path_factory):
    return FeatureStore(tmp_path_factory.mktemp("store"), encoder=visual).add(Shapes(16), quiet=True)


@pytest.fixture(scope="module")
def source(scenes):
    return StoredBatchSource(scenes)


def config(**changes) -> RunConfig:
    values = {"width": 48, "heads": 4, "depth": 1, "batch": 4, "warmup": 2, "steps": 6, "checkpoint_every": 2}
    return RunConfig.flat(
        **{"preset": "small", **values, "loss_stride": 2, "negatives": 2, "text_noise": 0.3, **changes}
    )


class Stopped(Exception):
    pass


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_resumed_run_ends_at_the_same_weights(optimiser, source, text_cache, tmp_path) -> None:
    run = config(optimiser=optimiser)
    straight, history = train(run=run, source=source, text_cache=text_cache, directory=tmp_path / "a", quiet=True)

    def stop(model):
        raise Stopped

    with pytest.raises(Stopped):  # after the checkpoint of step 4, before that of step 5
        train(
            run=run.changed(validate_every=5),
            source=source,
            text_cache=text_cache,
            directory=tmp_path / "b",
            validate=stop,
            quiet=True,
        )
    # The same data in other folders.
    moved = run.changed(validate_every=5, root="/elsewhere/things", coco="/elsewhere", features="/elsewhere/features")
    resumed, again = train(run=moved, source=source, text_cache=text_cache, directory=tmp_path / "b", quiet=True)
    assert [row["loss"] for row in again] == [row["loss"] for row in history] and len(history) == 6
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert len(list((tmp_path / "b").glob("step-*"))) == 2, "the last and its predecessor"


def test_online_run_resumed_with_other_workers_ends_at_the_same_weights(visual, text_cache, tmp_path) -> None:
    def trained(folder, workers, validate=None):
        source = OnlineBatchSource(Shapes(8), encoder=visual, augmentation="pascal", size=64, workers=workers)
        run = config(feed="online", workers=workers, checkpoint_every=3, validate_every=4)
        return train(
            run=run, source=source, text_cache=text_cache, directory=tmp_path / folder, validate=validate, quiet=True
        )

    def stop(model):
        raise Stopped

    straight, history = trained("a", 0)
    with pytest.raises(Stopped):  # in step 4, after the checkpoint of step 3
        trained("b", 1, stop)
    resumed, again = trained("b", 2)
    assert [row["loss"] for row in again] == [row["loss"] for row in history] and len(history) == 6
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_batch_source_of_the_other_kind_is_refused(source, text_cache, tmp_path) -> None:
    with pytest.raises(FusionerError, match="feed = 'online' but its batch source is stored"):
        train(run=config(feed="online"), source=source, text_cache=text_cache, directory=tmp_path, quiet=True)


def test_running_checkpoint_of_another_run_is_refused(source, text_cache, tmp_path) -> None:
    train(run=config(steps=2), source=source, text_cache=text_cache, directory=tmp_path, quiet=True)
    with pytest.raises(FusionerError, match=r"training\.lr was 0\.001, is 0\.002.*delete"):
        train(run=config(steps=2, lr=2e-3), source=source, text_cache=text_cache, directory=tmp_path, quiet=True)


def test_a_running_checkpoint_that_no_longer_fits_is_told(tmp_path) -> None:
    def running(**changes):
        model = build(config(**changes).fusion, visual_width=8, text_width=8)
        return TrainingState(model, torch.optim.AdamW(model.parameters()), step=3, history=[{"step": 3}])

    kept = running()
    kept.save(tmp_path, {})
    begun = rf"{tmp_path}/step-0000003/"
    for changes, named in (({"width": 32}, "size mismatch"), ({"kind": "spnet"}, "Missing key")):
        told = rf"{begun}model\.safetensors does not fit .*{named}.*delete {tmp_path} to start again, or go on with"
        with pytest.raises(FusionerError, match=told):
            running(**changes).resume(tmp_path, {})
    for name in ("optimiser", "model"):
        (tmp_path / "step-0000003" / f"{name}.safetensors").write_bytes(b"cut")
        with pytest.raises(FusionerError, match=rf"{begun}{name}\.safetensors can't be read .*delete {tmp_path} "):
            running().resume(tmp_path, {})


def test_frozen_stays_frozen_and_the_shapes_are_learnt(scenes, source, text_cache, visual, tmp_path) -> None:
    encoders = (visual, text_cache.encoder)
    before = [{name: tensor.clone() for name, tensor in encoder.state_dict().items()} for encoder in encoders]
    run = config(steps=250, text_noise=0.0, dropout=0.0, weight_decay=0.01, checkpoint_every=250)
    model, history = train(run=run, source=source, text_cache=text_cache, directory=tmp_path, quiet=True)
    for encoder, state in zip(encoders, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())
        assert all(parameter.grad is None for parameter in encoder.parameters())
    assert history[-1]["loss"] < history[0]["loss"] / 3
    assert evaluate(model, scenes, text_cache, present_queries(scenes), quiet=True).counts.miou > 0.5


def test_masks_of_asked_names(scenes) -> None:
    stored = [scenes[0], scenes[1]]
    assert stored[0].names == ("red box", "green box")
    samples = [Sample(0, ("green box", "blue box")), Sample(1, ("green box",))]
    masks = name_masks(torch.stack([scene.labels for scene in stored]), [scene.names for scene in stored], samples, 2)
    assert torch.equal(masks[0, 0], stored[0].labels == 2)
    assert torch.equal(masks[1, 0], stored[1].labels == 1)
    assert not masks[0, 1].any() and not masks[1, 1].any()


def test_nothing_to_train_on_is_told(scenes, text_cache, tmp_path) -> None:
    with pytest.raises(FusionerError, match="nothing to train on"):
        empty = StoredBatchSource(scenes, pairs=[])
        train(run=config(), source=empty, text_cache=text_cache, directory=tmp_path, quiet=True)


def test_paper_schedules() -> None:
    run = RunConfig.flat(recipe="bmvc2022", steps=510, warmup=10, width=16, heads=2, depth=1)
    model = build(run.fusion, visual_width=8, text_width=8)
    optimiser = make_optimiser(model, run.training)
    fusion, plain, decoder = optimiser.param_groups
    # The category vector has two dimensions and is no bias: it is decayed, as in the authors' runs.
    assert any(parameter is model.category for parameter in fusion["params"])
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    ours = make_optimiser(model, TrainingConfig(recipe="small"))
    assert any(parameter is model.category for parameter in ours.param_groups[1]["params"])
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(model.parameters()))
    set_schedule(optimiser, run.training, 0)
    assert (fusion["lr"], decoder["lr"]) == (0.0, 1e-3)
    for step in (9, 10):
        set_schedule(optimiser, run.training, step)
        assert fusion["lr"] == pytest.approx(1e-3)
    set_schedule(optimiser, run.training, 11)
    assert 0.99e-3 < fusion["lr"] < 1e-3
    set_schedule(optimiser, run.training, 510)
    assert fusion["lr"] == pytest.approx(2e-6) and fusion["weight_decay"] == pytest.approx(0.4)
    assert (plain["weight_decay"], decoder["weight_decay"], decoder["lr"]) == (0.0, 0.0, 1e-3)


def test_checkpoint_comes_back_whole_and_strangers_are_refused(tmp_path) -> None:
    run = config()
    model = build(run.fusion, visual_width=8, text_width=6)
    checkpoints.save(tmp_path / "a", model=model, run=run, trained_names=["dog", "cat"])
    back = checkpoints.load(tmp_path / "a")
    assert back.run == run and back.trained_names == ("cat", "dog") and not back.model.training
    assert all(torch.equal(tensor, back.model.state_dict()[name]) for name, tensor in model.state_dict().items())

    other = config(width=96)
    checkpoints.save(
        tmp_path / "b", model=build(other.fusion, visual_width=8, text_width=6), run=other, trained_names=[]
    )
    (tmp_path / "b" / "config.json").write_text((tmp_path / "a" / "config.json").read_text())
    with pytest.raises(FusionerError, match=r"category is \(1, 96\), expected \(1, 48\).*different runs"):
        checkpoints.load(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(FusionerError, match="not a checkpoint's config"):
        checkpoints.load(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(FusionerError, match=r"model\.safetensors can't be read"):
        checkpoints.load(tmp_path / "a")
    with pytest.raises(FusionerError, match="make demo"):
        checkpoints.load(tmp_path / "c")
