"""The two batch sources of training: what a batch holds, what decides it, and how a run's config chooses."""

import numpy as np
import pytest
import torch

from fusionerlib.config import RunConfig
from fusionerlib.datasets.augment import PRESETS, view
from fusionerlib.datasets.sampling import NameSampler, SampleOrder
from fusionerlib.datasets.sets import DataSets
from fusionerlib.datasets.transforms import Subset, Views
from fusionerlib.encoders.registry import load_visual
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import FeatureStore
from fusionerlib.training.batch_sources import (
    BatchSource,
    OnlineBatchSource,
    StoredBatchSource,
    training_batch_source,
    without_views,
)
from tests.shapes import Shapes


@pytest.fixture(scope="module")
def visual():
    return load_visual("packaged")


def order_of(source: BatchSource, batch: int = 3) -> SampleOrder:
    names = [source.names(index) for index in range(len(source))]
    sampler = NameSampler(["red box", "blue box"], positives=2, negatives=1, hard=0.0)
    return SampleOrder(source.pairs(), names, sampler=sampler, batch=batch, seed=11)


def online(visual, scenes, **changes) -> OnlineBatchSource:
    return OnlineBatchSource(scenes, encoder=visual, **{"augmentation": "pascal", "size": 64, **changes})


def test_stored_batches_are_the_stored_scenes(visual, tmp_path) -> None:
    stored = FeatureStore(tmp_path, encoder=visual).add(Shapes(6), quiet=True)
    source = StoredBatchSource(stored)
    order = order_of(source)
    assert isinstance(source, BatchSource) and source.pairs() == stored.pairs() and "6 training scenes" in str(source)
    for step, batch in zip(range(2, 5), source.batches(order, range(2, 5)), strict=True):
        assert batch.samples == order.samples(step)
        for row, sample in enumerate(batch.samples):
            assert torch.equal(batch.tokens[row], stored[sample.scene].tokens)
            assert torch.equal(batch.labels[row], stored[sample.scene].labels)
            assert batch.names[row] == stored.names(sample.scene)


def test_online_batches_are_the_tower_s_tokens_of_the_views(visual) -> None:
    scenes = Shapes(4, size=80)
    source = online(visual, scenes)
    order = order_of(source)
    pairs = source.pairs()
    assert pairs == [(index, name) for index in range(4) for name in scenes.names(index)]
    seen: set[tuple[int, int]] = set()
    for step, batch in enumerate(source.batches(order, range(5))):
        assert batch.samples == order.samples(step) and batch.names == [scenes.names(s.scene) for s in batch.samples]
        assert batch.tokens.shape == (3, 4, 4, source.width) and not batch.tokens.requires_grad
        assert not batch.tokens.is_inference()
        for row, sample in enumerate(batch.samples):
            epoch, place = (step * 3 + row) // len(pairs), pairs.index((sample.scene, sample.names[0]))
            seen.add((epoch, place))
            shown = view(scenes[sample.scene], augmentation=PRESETS["pascal"], size=64, seed=(11, epoch, place))
            assert np.array_equal(batch.labels[row].numpy(), shown.labels)
            image = torch.from_numpy(shown.image.copy()).permute(2, 0, 1)[None]
            assert torch.allclose(batch.tokens[row].flatten(0, 1), visual(image).main.tokens[0], atol=1e-4)
    # No view comes twice: the fifteen draws go through more than two epochs of six pairs.
    assert len(seen) == 15 and max(epoch for epoch, _ in seen) == 2


def test_a_step_s_batch_does_not_depend_on_where_the_run_began_nor_on_workers(visual) -> None:
    source = online(visual, Shapes(5))
    order = order_of(source)
    straight = list(source.batches(order, range(4)))
    later = list(online(visual, Shapes(5), workers=2).batches(order_of(source), range(2, 4)))
    for one, other in zip(straight[2:], later, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.labels, other.labels)
        assert one.samples == other.samples and one.names == other.names


def test_the_fingerprint_follows_what_decides_the_views(visual) -> None:
    sources = [
        online(visual, Shapes(4)),
        online(visual, Shapes(5)),
        online(visual, Shapes(4), size=96),
        online(visual, Shapes(4), augmentation="coco"),
    ]
    assert len({source.fingerprint for source in sources}) == 4
    assert online(visual, Shapes(4), workers=3).fingerprint == sources[0].fingerprint


def test_views_made_for_storing_are_taken_back() -> None:
    raw = Shapes(3)
    views = Views(raw, views=2, seed=0, size=32)
    pairs = [(2, "green box"), (3, "green box"), (0, "red box"), (1, "red box")]
    scenes, before = without_views(DataSets(train=views, tests={}, pairs=pairs))
    assert scenes is raw and before == [(1, "green box"), (0, "red box")]
    assert without_views(DataSets(train=views, tests={})) == (raw, None)
    drawn = Subset(raw, [0])
    assert without_views(DataSets(train=drawn, tests={}, pairs=[(0, "red box")])) == (drawn, [(0, "red box")])


class ShapesContext(RunContext):
    """The context of a run on the shapes, which are no data set on disk."""

    @property
    def sets(self) -> DataSets:
        return DataSets(train=Views(Shapes(3), views=2, seed=0, size=64), tests={})


def test_the_config_chooses_the_batch_source(visual, tmp_path) -> None:
    for kind, scenes in (("stored", Views(Shapes(3), views=2, seed=0, size=64)), ("online", Shapes(3))):
        run = RunConfig.flat(
            feed=kind, augmentation="coco", workers=1, size=64, views=2, features=str(tmp_path / "features")
        )
        context = ShapesContext(run)
        source = training_batch_source(context)
        assert source.kind == kind and len(source) == len(scenes)
    assert isinstance(source, OnlineBatchSource) and (source.augmentation, source.workers, source.size) == (
        "coco",
        1,
        64,
    )
