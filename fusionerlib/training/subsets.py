"""Subsets of the training set: a share of the images, a share of the names, or all objects under one name."""

from collections.abc import Generator, Sequence

import numpy as np

from fusionerlib.datasets.sampling import SampleOrder
from fusionerlib.datasets.scene import IGNORE
from fusionerlib.features.store import StoredScenes
from fusionerlib.files import fingerprint
from fusionerlib.training.batch_sources import Batch, Pairs, StoredBatchSource

OBJECT = "object"
"""The one name of ``OneObject``."""


class TrainingSubset(StoredBatchSource):
    """A share of the training images and of the names. A smaller share is a subset of a larger one of the same seed.

    images, names: shares, 0 < share <= 1. views: number of consecutive scenes that show one image. A name that is left
    out is never asked, neither as a present nor as an absent name; its pixels are background. Two names of which one
    contains all words of the other ("bicycle", "blue bicycle") are kept or left out together.
    """

    def __init__(
        self,
        scenes: StoredScenes,
        pairs: Pairs | None = None,
        *,
        images: float = 1.0,
        names: float = 1.0,
        views: int = 1,
        seed: int,
    ) -> None:
        pairs = scenes.pairs() if pairs is None else pairs
        rng = np.random.default_rng((seed, 3))
        kept = set(_share(rng, sorted({scene // views for scene, _ in pairs}), images))
        self.kept_names = frozenset(_share_of_names(rng, sorted({name for _, name in pairs}), names))
        super().__init__(
            scenes, [(scene, name) for scene, name in pairs if scene // views in kept and name in self.kept_names]
        )
        self.fingerprint = fingerprint(scenes.fingerprint, "fewer", images, names, views, seed)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` that were kept."""
        return tuple(name for name in super().names(index) if name in self.kept_names)


class OneObject(StoredBatchSource):
    """The same scenes with one name, ``OBJECT``, whose mask is the union of all masks of the scene.

    A control: a model can learn from it where objects are, and nothing about names. (The control ``class-agnostic`` of
    ``studies.cost_aggregation`` trains on one name's mask at a time instead.)
    """

    def __init__(self, scenes: StoredScenes, pairs: Pairs | None = None) -> None:
        pairs = scenes.pairs() if pairs is None else pairs
        super().__init__(scenes, [(scene, OBJECT) for scene in dict.fromkeys(scene for scene, _ in pairs)])
        self.fingerprint = fingerprint(scenes.fingerprint, "one object")

    def names(self, index: int) -> tuple[str, ...]:
        """``OBJECT``."""
        return (OBJECT,)

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``: all labels except 0 and 255 become 1."""
        for batch in super().batches(order, steps):
            union = batch.labels.clamp(max=1).where(batch.labels != IGNORE, batch.labels)
            yield Batch(batch.tokens, union, [(OBJECT,)] * len(batch.samples), batch.samples)


def _share(rng: np.random.Generator, whole: Sequence[int], share: float) -> list[int]:
    """A random ``share`` of ``whole``, at least one element: the first elements of a random permutation."""
    return [whole[place] for place in rng.permutation(len(whole))[: max(1, round(share * len(whole)))]]


def _share_of_names(rng: np.random.Generator, names: Sequence[str], share: float) -> list[str]:
    families = families_of(names)
    kept: list[str] = []
    for place in rng.permutation(len(families)):
        if len(kept) < max(1, round(share * len(names))):
            kept += families[place]
    return kept


def families_of(names: Sequence[str]) -> list[list[str]]:
    """``names`` in groups: the connected components of "all words of one name are in the other"."""
    words = {name: frozenset(name.split()) for name in names}
    family = {name: name for name in names}

    def head(name: str) -> str:
        while family[name] != name:
            name = family[name]
        return name

    for name in names:
        for other in names:
            if words[name] < words[other]:
                family[head(other)] = head(name)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(head(name), []).append(name)
    return list(groups.values())
