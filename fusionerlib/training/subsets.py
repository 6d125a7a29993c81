"""Stored training scenes that tell less: a part of the images, a part of the names, or only where objects are."""

from collections.abc import Generator, Sequence

import numpy as np

from fusionerlib.datasets.sampling import SampleOrder
from fusionerlib.datasets.scene import IGNORE
from fusionerlib.features.store import StoredScenes
from fusionerlib.files import fingerprint
from fusionerlib.training.batch_sources import Batch, Pairs, StoredBatchSource

OBJECT = "object"
"""What every object is called where only objects are to be found."""


class TrainingSubset(StoredBatchSource):
    """A share of the training images, or the pairs of a share of the names; a smaller share is part of a larger one.

    images, names: shares, above 0 and up to 1, drawn by ``seed``. views: scenes in a row that show one image. A name
    that is left out is never asked, neither as a present nor as an absent one; its pixels are background to all names.
    Names of which one holds all words of the other ("bicycle", "blue bicycle") stay or go together.
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
        """Those names of scene ``index`` that were kept."""
        return tuple(name for name in super().names(index) if name in self.kept_names)


class OneObject(StoredBatchSource):
    """The same scenes with every named thing called ``OBJECT``: all that is left to learn is what stands out.

    Where a scene shows several names its mask is all of them together. The control of the transfer study
    (``transfer.study.CONTROLS``) keeps the masks apart.
    """

    def __init__(self, scenes: StoredScenes, pairs: Pairs | None = None) -> None:
        pairs = scenes.pairs() if pairs is None else pairs
        super().__init__(scenes, [(scene, OBJECT) for scene in dict.fromkeys(scene for scene, _ in pairs)])
        self.fingerprint = fingerprint(scenes.fingerprint, "one object")

    def names(self, index: int) -> tuple[str, ...]:
        """``OBJECT``."""
        return (OBJECT,)

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``, all labels but ignored ones joined."""
        for batch in super().batches(order, steps):
            joined = batch.labels.clamp(max=1).where(batch.labels != IGNORE, batch.labels)
            yield Batch(batch.tokens, joined, [(OBJECT,)] * len(batch.samples), batch.samples)


def _share(rng: np.random.Generator, whole: Sequence[int], share: float) -> list[int]:
    """The first of ``whole`` in a drawn order, at least one."""
    return [whole[place] for place in rng.permutation(len(whole))[: max(1, round(share * len(whole)))]]


def _share_of_names(rng: np.random.Generator, names: Sequence[str], share: float) -> list[str]:
    families = families_of(names)
    kept: list[str] = []
    for place in rng.permutation(len(families)):
        if len(kept) < max(1, round(share * len(names))):
            kept += families[place]
    return kept


def families_of(names: Sequence[str]) -> list[list[str]]:
    """``names`` in groups: two of which one holds all words of the other are in one group, directly or by others."""
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
