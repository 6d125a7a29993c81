"""Batch sources: training batches from stored features, or from augmented images through the frozen visual encoder.

Worker processes augment images; batches do not depend on their number. A batch is requested by keys, pairs of (epoch,
index), so that a worker that lives through several epochs holds no epoch number of its own.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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
from fusionerlib.datasets.transforms import Resized, Subset, Views
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import StoredScenes
from fusionerlib.files import fingerprint

Key = tuple[int, int]
"""Epoch and index of an augmented view."""


class AugmentedScenes(Dataset[tuple[Tensor, Tensor]]):
    """Augmented views of ``scenes``, each a function of (seed, epoch, index).

    size: side of a view in pixels.
    """

    def __init__(self, scenes: Scenes, *, augmentation: Augmentation, size: int, seed: int) -> None:
        self.scenes, self.augmentation, self.size, self.seed = scenes, augmentation, size, seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: Key) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]:
        """Image (RGB, 0-255) and labels (as in ``Scene``) of the view at ``key``."""
        return self.view(key, self.scenes[key[1]])

    def view(self, key: Key, scene: Scene) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]:
        """The view ``key`` of ``scene``, which is ``scenes[key[1]]``; image and labels as in ``__getitem__``."""
        epoch, index = key
        made = view(scene, augmentation=self.augmentation, size=self.size, seed=(self.seed, epoch, index))
        return torch.from_numpy(made.image).permute(2, 0, 1), torch.from_numpy(made.labels)


class EpochKeys:
    """Keys of the batches of one epoch after another; every iteration over this object is one epoch, shuffled.

    length: number of scenes. The last batch of an epoch may be smaller. epoch: number of the next epoch.
    """

    def __init__(self, length: int, *, batch: int, seed: int, epoch: int = 0) -> None:
        self.length, self.batch, self.seed, self.epoch = length, batch, seed, epoch

    def __iter__(self) -> Iterator[list[Key]]:
        # The epoch is counted when it ends: torch's loader calls iter() twice when it starts its workers.
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist()
        for start in range(0, self.length, self.batch):
            yield [(self.epoch, index) for index in order[start : start + self.batch]]
        self.epoch += 1


class Loader:
    """Batches of ``views`` in the order of ``keys``: images (B, 3, size, size) and labels (B, size, size).

    workers: processes that read and augment images, 0 for none. They are started by the first iteration and kept.
    ahead: batches that each worker prepares in advance. A FusionerError of a worker, which names the file, is raised
    here unchanged. Raises FusionerError for a negative number of workers.
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
            # A loader draws a seed for its workers; torch's global generator is left alone.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[tuple[UInt8[Tensor, "batch 3 size size"], UInt8[Tensor, "batch size size"]]]:
        for made in self._loader:
            if isinstance(made, FusionerError):
                raise made
            images, labels = made
            yield images, labels


class _Batches(Dataset[tuple[Tensor, Tensor] | FusionerError]):
    """A list of keys to its batch. An error is returned: torch would wrap a raised one in a worker's traceback."""

    def __init__(self, views: AugmentedScenes) -> None:
        self.views = views

    def __getitem__(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor] | FusionerError:
        try:
            # Read all, then augment all: the processor's caches hold the code of only one of the two.
            scenes = [self.views.scenes[index] for _, index in keys]
        except FusionerError as error:
            return error
        images, labels = zip(*map(self.views.view, keys, scenes), strict=True)
        return torch.stack(images), torch.stack(labels)


Pairs = list[tuple[int, str]]
Labelled = Callable[[int], frozenset[str] | None]
SceneTokens = tuple[Float[Tensor, "rows columns dim"], UInt8[Tensor, "height width"]]
"""Patch tokens on their grid, float32, and labels as in ``Scene``."""


def names_of(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """The names among (scene, name) pairs, sorted."""
    return tuple(sorted({name for _, name in pairs}))


@dataclass(frozen=True)
class Batch:
    """The data of one step, or one process's share of it.

    tokens: patch tokens on their grid. labels: 0 background, k + 1 the k-th of the scene's names, 255 ignored.
    names: the names of each scene's labels. samples: each scene's index and the names asked of it.
    """

    tokens: Float[Tensor, "batch rows columns dim"]
    labels: UInt8[Tensor, "batch height width"]
    names: list[tuple[str, ...]]
    samples: list[Sample]

    def part(self, rows: slice) -> "Batch":
        """The batch of these rows."""
        return Batch(self.tokens[rows], self.labels[rows], self.names[rows], self.samples[rows])


@runtime_checkable
class BatchSource(Protocol):
    """Training scenes and their batches. kind: which of the two. fingerprint: changes with the scenes and views.

    labelled: the names that the data set of a scene labels (``DataSets.labelled``).
    """

    kind: Literal["stored", "online"]
    fingerprint: str
    width: int
    """Channels of the tokens."""
    labelled: Labelled

    def __len__(self) -> int: ...

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, without opening it."""
        ...

    def pairs(self) -> Pairs:
        """The (scene, name) pairs that training samples from."""
        ...

    def scene(self, index: int) -> SceneTokens:
        """Patch tokens on their grid, and labels, of scene ``index`` without augmentation."""
        ...

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``, each a function of ``order`` and its step; only this process's rows of each."""
        ...


class StoredBatchSource:
    """Batches of stored features. pairs: the (scene, name) pairs to sample from; all of ``scenes`` if None."""

    kind: Literal["stored", "online"] = "stored"

    def __init__(
        self, scenes: StoredScenes, pairs: Pairs | None = None, labelled: Labelled = lambda scene: None
    ) -> None:
        self.scenes, self._pairs, self.labelled = scenes, pairs, labelled
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
        """The (scene, name) pairs that training samples from."""
        return self.scenes.pairs() if self._pairs is None else self._pairs

    def scene(self, index: int) -> SceneTokens:
        """Patch tokens on their grid, and labels, of scene ``index``."""
        scene = self.scenes[index]
        return scene.tokens, scene.labels

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``."""
        for step in steps:
            samples = order.own_samples(step)
            scenes = [sample.scene for sample in samples]
            tokens, labels = self.scenes.batch(scenes)
            yield Batch(tokens, labels, [self.scenes.names(scene) for scene in scenes], samples)


class OnlineBatchSource:
    """Batches of augmented views of ``scenes`` through the frozen ``encoder``; ``workers`` processes augment.

    A view is a function of the order's seed, the epoch and the index of the sample's (scene, name) pair, so a scene
    with two names has two views an epoch. size: side of a view in pixels. pairs: as in ``StoredBatchSource``.
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
        labelled: Labelled = lambda scene: None,
    ) -> None:
        self.labelled = labelled
        self.scenes, self.encoder, self.augmentation, self.size = scenes, encoder, augmentation, size
        self.workers, self._pairs, self.width = workers, pairs, encoder.width
        self.fingerprint = fingerprint(scenes.fingerprint, "online", PRESETS[augmentation], size, encoder.fingerprint)

    def __len__(self) -> int:
        return len(self.scenes)

    def __str__(self) -> str:
        how = f"augmented ({self.augmentation}) each time they are sampled, by {self.workers} worker processes"
        return f"{len(self)} training scenes, {how}"

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, without opening it."""
        return self.scenes.names(index)

    def pairs(self) -> Pairs:
        """The (scene, name) pairs that training samples from."""
        if self._pairs is None:
            return [(index, name) for index in range(len(self)) for name in self.names(index)]
        return self._pairs

    def scene(self, index: int) -> SceneTokens:
        """Patch tokens on their grid, and labels, of scene ``index``, resized and not augmented."""
        scene = Resized(self.scenes, size=self.size)[index]
        with torch.no_grad():
            main = self.encoder(torch.from_numpy(scene.image.copy()).permute(2, 0, 1)[None]).main
        tokens = rearrange(main.tokens, "1 (h w) d -> h w d", h=main.grid[0]).float().cpu()
        return tokens, torch.from_numpy(scene.labels.copy())

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``; the workers live as long as the generator."""
        by_pair = Subset(self.scenes, [scene for scene, _ in order.pairs])
        views = AugmentedScenes(by_pair, augmentation=PRESETS[self.augmentation], size=self.size, seed=order.seed)
        waiting: deque[list[Sample]] = deque()
        loader = Loader(views, _keys(order, steps, waiting), workers=self.workers)
        for images, labels in loader:
            samples = waiting.popleft()
            # no_grad, not inference_mode: tensors of that mode cannot enter a trainable layer.
            with torch.no_grad():
                main = self.encoder(images).main
            tokens = rearrange(main.tokens, "b (h w) d -> b h w d", h=main.grid[0]).float()
            yield Batch(tokens, labels, [self.names(sample.scene) for sample in samples], samples)


def training_batch_source(context: RunContext, *, quiet: bool = False) -> BatchSource:
    """The batch source that ``context.run.training.feed`` names, over the run's training scenes.

    Stored features are computed where they are missing; several processes that call this at once share that work.
    """
    config, sets = context.run.training, context.sets
    if config.feed == "stored":
        return StoredBatchSource(
            context.features(sets.train, "training features", quiet=quiet), sets.pairs, sets.labelled
        )
    scenes, pairs = without_views(sets)
    return OnlineBatchSource(
        scenes,
        encoder=context.visual,
        augmentation=config.augmentation,
        size=context.run.data.size,
        workers=config.workers,
        pairs=pairs,
        labelled=lambda scene: sets.labelled(scene * context.run.data.views),
    )


def without_views(sets: DataSets) -> tuple[Scenes, Pairs | None]:
    """The training scenes and pairs of ``sets`` without the resizing and the extra views that are made for storing."""
    if not isinstance(sets.train, Views):
        return sets.train, sets.pairs
    views = sets.train.views
    pairs = None if sets.pairs is None else list(dict.fromkeys((scene // views, name) for scene, name in sets.pairs))
    return sets.train.scenes, pairs


def _keys(order: SampleOrder, steps: range, waiting: deque[list[Sample]]) -> Iterator[list[Key]]:
    """The keys of each step's views; the step's samples are appended to ``waiting``."""
    places = {pair: place for place, pair in enumerate(order.pairs)}
    for step in steps:
        samples = order.own_samples(step)
        waiting.append(samples)
        yield [
            (draw // len(order.pairs), places[sample.scene, sample.names[0]])
            for draw, sample in zip(order.own_draws(step), samples, strict=True)
        ]
