"""Augmented scenes by the batch, made in worker processes: the same batches with any number of workers.

A batch is asked for by keys, pairs of (epoch, index), which travel to the workers with each request. So workers that
live on from epoch to epoch hold no epoch of their own that could be out of date.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusionerlib.datasets.augment import Augmentation, view
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.errors import FusionerError

Key = tuple[int, int]
"""Epoch and index of a view."""


class AugmentedScenes(Dataset[tuple[Tensor, Tensor]]):
    """Views of ``scenes`` by key, each decided by (seed, epoch, index) alone."""

    def __init__(self, scenes: Scenes, *, augmentation: Augmentation, size: int, seed: int) -> None:
        self.scenes, self.augmentation, self.size, self.seed = scenes, augmentation, size, seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: Key) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]:
        """Image (RGB, 0-255) and labels (as in ``Scene``) of the view at ``key``."""
        return self.view(key, self.scenes[key[1]])

    def view(self, key: Key, scene: Scene) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]:
        """The view at ``key`` of its scene, which was opened before."""
        epoch, index = key
        made = view(scene, augmentation=self.augmentation, size=self.size, seed=self.seed, epoch=epoch, index=index)
        return torch.from_numpy(made.image).permute(2, 0, 1), torch.from_numpy(made.labels)


class EpochKeys:
    """Keys of batches over a set of ``length``: each whole pass over this is an epoch, in an order of its own.

    The last batch of an epoch may be smaller. epoch: that of the next pass; set it to go on elsewhere.
    """

    def __init__(self, length: int, *, batch: int, seed: int, epoch: int = 0) -> None:
        self.length, self.batch, self.seed, self.epoch = length, batch, seed, epoch

    def __iter__(self) -> Iterator[list[Key]]:
        # Counted at the end of a pass: torch's loader calls iter() twice when it starts its workers.
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist()
        for start in range(0, self.length, self.batch):
            yield [(self.epoch, index) for index in order[start : start + self.batch]]
        self.epoch += 1


class Loader:
    """Batches of ``views`` in the order of ``keys``: images (B, 3, size, size) and labels (B, size, size).

    workers: processes that open and augment; 0 does it here. They start with the first pass and serve the later ones.
    ahead: batches that each worker prepares in advance.
    A FusionerError in a worker is raised here as it was there: it names the file.
    """

    def __init__(
        self, views: AugmentedScenes, keys: Iterable[Sequence[Key]], *, workers: int = 0, ahead: int = 2
    ) -> None:
        if workers < 0:
            raise FusionerError(f"workers = {workers}: expected 0 (no processes) or more")
        self._loader = DataLoader(
            _Batches(views),
            sampler=keys,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=ahead if workers else None,
            # A pass over a loader draws a seed for its workers; not from torch's global generator.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[tuple[UInt8[Tensor, "batch 3 size size"], UInt8[Tensor, "batch size size"]]]:
        for made in self._loader:
            if isinstance(made, FusionerError):
                raise made
            images, labels = made
            yield images, labels


class _Batches(Dataset[tuple[Tensor, Tensor] | FusionerError]):
    """A list of keys to its batch; an error is a value, since torch would wrap a raised one in a worker's traceback."""

    def __init__(self, views: AugmentedScenes) -> None:
        self.views = views

    def __getitem__(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor] | FusionerError:
        try:
            # First all are opened, then all augmented: the processor's caches hold the code of one or the other.
            scenes = [self.views.scenes[index] for _, index in keys]
        except FusionerError as error:
            return error
        images, labels = zip(*map(self.views.view, keys, scenes), strict=True)
        return torch.stack(images), torch.stack(labels)
