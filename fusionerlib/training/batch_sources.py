"""Augmented scenes by the batch, made in worker processes: the same batches with any number of workers.

A batch is asked for by keys, pairs of (epoch, index), which travel to the workers with each request. So workers that
live on from epoch to epoch hold no epoch of their own that could be out of date.

Where training's batches come from: features that are stored, or augmented images through the frozen tower.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusionerlib.datasets.augment import PRESETS, Augmentation, Preset, view
from fusionerlib.datasets.sampling import Sample, SampleOrder
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.datasets.sets import DataSets
from fusionerlib.datasets.transforms import Subset, Views
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import StoredScenes
from fusionerlib.files import fingerprint

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
        made = view(scene, augmentation=self.augmentation, size=self.size, seed=(self.seed, epoch, index))
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


Pairs = list[tuple[int, str]]


def names_of(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """The names among (scene, name) pairs, sorted."""
    return tuple(sorted({name for _, name in pairs}))


@dataclass(frozen=True)
class Batch:
    """What one step trains on, or one process's share of it.

    tokens: patch tokens on their grid. labels: as in ``Scene``. names: those behind each scene's labels. samples: the
    scenes, and what is asked of each.
    """

    tokens: Float[Tensor, "batch rows columns dim"]
    labels: UInt8[Tensor, "batch height width"]
    names: list[tuple[str, ...]]
    samples: list[Sample]

    def part(self, rows: slice) -> "Batch":
        """Some of its scenes."""
        return Batch(self.tokens[rows], self.labels[rows], self.names[rows], self.samples[rows])


@runtime_checkable
class BatchSource(Protocol):
    """Scenes that a fusion trains on, and their batches."""

    kind: Literal["stored", "online"]
    fingerprint: str
    width: int
    """Channels of the tokens."""

    def __len__(self) -> int: ...

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, without opening it."""
        ...

    def pairs(self) -> Pairs:
        """The (scene, name) pairs that training draws from."""
        ...

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``, each decided by ``order`` and its step alone: its own rows of every step."""
        ...


class StoredBatchSource:
    """Batches of stored features. pairs: all of ``scenes`` if None."""

    kind: Literal["stored", "online"] = "stored"

    def __init__(self, scenes: StoredScenes, pairs: Pairs | None = None) -> None:
        self.scenes, self._pairs = scenes, pairs
        self.fingerprint, self.width = scenes.fingerprint, scenes.store.encoder.width

    def __len__(self) -> int:
        return len(self.scenes)

    def __str__(self) -> str:
        shape = tuple(self.scenes[0].tokens.shape)
        size = f"tokens {shape} each, {self.scenes.image_bytes / 1e3:.0f} kB an image with its labels"
        return f"{len(self)} training scenes, {size}, in {self.scenes.store.folder}"

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, without reading it."""
        return self.scenes.names(index)

    def pairs(self) -> Pairs:
        """The (scene, name) pairs that training draws from."""
        return self.scenes.pairs() if self._pairs is None else self._pairs

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``."""
        for step in steps:
            samples = order.own_samples(step)
            scenes = [sample.scene for sample in samples]
            tokens, labels = self.scenes.batch(scenes)
            yield Batch(tokens, labels, [self.scenes.names(scene) for scene in scenes], samples)


class OnlineBatchSource:
    """Batches of views of ``scenes``, augmented in ``workers`` processes, through the frozen ``encoder``.

    A sample's view is decided by (seed of the order, epoch, place of its pair), so a scene with two names is seen in
    two views an epoch. pairs: all of ``scenes`` if None.
    """

    kind: Literal["stored", "online"] = "online"

    def __init__(
        self,
        scenes: Scenes,
        *,
        encoder: VisualEncoder,
        augmentation: Preset,
        size: int,
        workers: int = 0,
        pairs: Pairs | None = None,
    ) -> None:
        self.scenes, self.encoder, self.augmentation, self.size = scenes, encoder, augmentation, size
        self.workers, self._pairs, self.width = workers, pairs, encoder.width
        self.fingerprint = fingerprint(scenes.fingerprint, "online", PRESETS[augmentation], size, encoder.fingerprint)

    def __len__(self) -> int:
        return len(self.scenes)

    def __str__(self) -> str:
        how = f"augmented ({self.augmentation}) anew each time they are drawn, in {self.workers} worker processes"
        return f"{len(self)} training scenes, {how}"

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, without opening it."""
        return self.scenes.names(index)

    def pairs(self) -> Pairs:
        """The (scene, name) pairs that training draws from."""
        if self._pairs is None:
            return [(index, name) for index in range(len(self)) for name in self.names(index)]
        return self._pairs

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``; the workers live as long as the generator."""
        shown = Subset(self.scenes, [scene for scene, _ in order.pairs])
        views = AugmentedScenes(shown, augmentation=PRESETS[self.augmentation], size=self.size, seed=order.seed)
        waiting: deque[list[Sample]] = deque()
        loader = Loader(views, _keys(order, steps, waiting), workers=self.workers)
        for images, labels in loader:
            samples = waiting.popleft()
            # Not inference_mode: its tensors may not enter a layer that trains.
            with torch.no_grad():
                main = self.encoder(images).main
            tokens = rearrange(main.tokens, "b (h w) d -> b h w d", h=main.grid[0]).float()
            yield Batch(tokens, labels, [self.names(sample.scene) for sample in samples], samples)


def training_batch_source(context: RunContext, *, quiet: bool = False) -> BatchSource:
    """The feed that ``context.run`` asks for, over its training scenes; features to store are computed where missing.

    Processes that ask for the same one at the same time share that work.
    """
    config, sets = context.run.training, context.sets
    if config.feed == "stored":
        return StoredBatchSource(
            context.store.add(sets.train, description="training features", quiet=quiet), sets.pairs
        )
    scenes, pairs = without_views(sets)
    return OnlineBatchSource(
        scenes,
        encoder=context.visual,
        augmentation=config.augmentation,
        size=context.run.data.size,
        workers=config.workers,
        pairs=pairs,
    )


def without_views(sets: DataSets) -> tuple[Scenes, Pairs | None]:
    """The training scenes and pairs of ``sets`` before they were resized and multiplied for storing."""
    if not isinstance(sets.train, Views):
        return sets.train, sets.pairs
    views = sets.train.views
    pairs = None if sets.pairs is None else list(dict.fromkeys((scene // views, name) for scene, name in sets.pairs))
    return sets.train.scenes, pairs


def _keys(order: SampleOrder, steps: range, waiting: deque[list[Sample]]) -> Iterator[list[Key]]:
    """The keys of each step's views; its samples wait in ``waiting`` until its batch comes."""
    places = {pair: place for place, pair in enumerate(order.pairs)}
    for step in steps:
        samples = order.own_samples(step)
        waiting.append(samples)
        yield [
            (draw // len(order.pairs), places[sample.scene, sample.names[0]])
            for draw, sample in zip(order.own_draws(step), samples, strict=True)
        ]
