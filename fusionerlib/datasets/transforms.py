"""Data sets made from other data sets: a subset, one size for all, augmented views, corruptions, a concatenation."""

import io
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from fusionerlib.datasets.scene import IGNORE, Scene, Scenes, resized
from fusionerlib.errors import FusionerError, one_of
from fusionerlib.files import fingerprint

Pixels = UInt8[np.ndarray, "height width 3"]


class Subset:
    """The scenes of ``scenes`` at ``indices``, in that order; an index may occur more than once.

    Raises FusionerError for an index that ``scenes`` does not have.
    """

    def __init__(self, scenes: Scenes, indices: Iterable[int]) -> None:
        self.scenes, self.indices = scenes, [int(index) for index in indices]
        for index in self.indices:
            if not 0 <= index < len(scenes):
                raise FusionerError(f"scene {index} is not in a set of {len(scenes)}: choose 0 to {len(scenes) - 1}")
        self.fingerprint = fingerprint(scenes.fingerprint, "subset", self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        return self.scenes.names(self.indices[index])

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[self.indices[index]]


class Concat:
    """Several data sets one after the other."""

    def __init__(self, *parts: Scenes) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.fingerprint = fingerprint("concat", [part.fingerprint for part in parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Scene:
        part, place = self.part_of(index)
        return part[place]

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        part, place = self.part_of(index)
        return part.names(place)

    def part_of(self, index: int) -> tuple[Scenes, int]:
        """The data set that scene ``index`` is of, and its index there."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[number], index - int(self._starts[number])


class Mapped:
    """Every scene of ``scenes``, changed on its own: as many scenes, with the same names.

    A subclass writes the change into ``__getitem__``; ``settings`` are all that decides it, and enter the fingerprint.
    """

    def __init__(self, scenes: Scenes, *settings: int | float | str) -> None:
        self.scenes, self.fingerprint = scenes, fingerprint(scenes.fingerprint, *settings)

    def __len__(self) -> int:
        return len(self.scenes)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        return self.scenes.names(index)


class Resized(Mapped):
    """Every scene resized to ``size`` x ``size`` pixels, whatever its aspect ratio (see ``scene.resized``).

    Raises FusionerError for a size below 1.
    """

    def __init__(self, scenes: Scenes, *, size: int) -> None:
        super().__init__(scenes, "resized", size)
        self.size = _positive("size", size)

    def __getitem__(self, index: int) -> Scene:
        return resized(self.scenes[index], width=self.size, height=self.size)


class Without:
    """``scenes`` without the names in ``names``; a scene that has no name left is dropped.

    novel: the label of their pixels, ignore (255) or background (0).
    """

    def __init__(self, scenes: Scenes, names: Collection[str], *, novel: Literal["ignore", "background"]) -> None:
        self.scenes, self.without, self.label = scenes, frozenset(names), IGNORE if novel == "ignore" else 0
        self._indices = [index for index in range(len(scenes)) if self._kept(scenes.names(index))]
        self.fingerprint = fingerprint(scenes.fingerprint, "without", sorted(self.without), novel)

    def __len__(self) -> int:
        return len(self._indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The names that scene ``index`` keeps, without opening its image."""
        return self._kept(self.scenes.names(self._indices[index]))

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[self._indices[index]]
        names = self._kept(scene.names)
        table = np.zeros(256, dtype=np.uint8)
        table[IGNORE] = IGNORE
        for label, name in enumerate(scene.names, start=1):
            table[label] = names.index(name) + 1 if name in names else self.label
        return replace(scene, labels=table[scene.labels], names=names)

    def _kept(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in self.without)


class Views:
    """``views`` versions of every scene, ``size`` x ``size`` pixels; view v of scene i is at ``i * views + v``.

    View 0 is the scene as ``Resized`` gives it. The others are augmented by ``augment.STORED`` (the paper's
    augmentation without hue, noise and warps), each decided by (seed, i, v) alone. A view has the names of its scene,
    even where the crop left an object out: the mask of that name is then empty.
    Raises FusionerError for views or a size below 1.
    """

    def __init__(self, scenes: Scenes, *, views: int, seed: int, size: int) -> None:
        from fusionerlib.datasets.augment import STORED  # imports torch

        self.scenes, self.seed, self.augmentation = scenes, seed, STORED
        self.views, self.size = _positive("views", views), _positive("size", size)
        self.fingerprint = fingerprint(scenes.fingerprint, "views", views, seed, size, STORED)

    def __len__(self) -> int:
        return len(self.scenes) * self.views

    def names(self, index: int) -> tuple[str, ...]:
        """The names of the scene that view ``index`` shows, without opening its image."""
        return self.scenes.names(index // self.views)

    def __getitem__(self, index: int) -> Scene:
        from fusionerlib.datasets.augment import view

        place, number = divmod(index, self.views)
        scene = self.scenes[place]
        if number == 0:
            return resized(scene, width=self.size, height=self.size)
        made = view(scene, augmentation=self.augmentation, size=self.size, seed=(self.seed, place, number))
        return replace(made, key=f"{scene.key} view {number}")


def blurred(image: Pixels, level: int | float, seed: int = 0) -> Pixels:
    """Gaussian blur; ``level`` is its standard deviation in pixels (Pillow's radius)."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(level)))


def noisy(image: Pixels, level: int | float, seed: int = 0) -> Pixels:
    """Gaussian noise on each pixel and channel; ``level`` is its standard deviation on the scale 0-255."""
    noise = np.random.default_rng(seed).normal(0.0, level, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def compressed(image: Pixels, level: int | float, seed: int = 0) -> Pixels:
    """JPEG compression; ``level`` is the quality, 1 (worst) to 95, with 4:2:0 chroma subsampling."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=int(level), subsampling="4:2:0")
    with Image.open(stream) as opened:
        return np.array(opened.convert("RGB"))


CORRUPTIONS: dict[str, Callable[..., Pixels]] = {"blur": blurred, "noise": noisy, "JPEG": compressed}
"""The corruptions by name: pure functions of (image, level, seed)."""


class Corrupted(Mapped):
    """``scenes`` with the corruption ``kind`` at ``level`` on every image; the noise is decided by (seed, index).

    Raises FusionerError for a corruption that is not in ``CORRUPTIONS``.
    """

    def __init__(self, scenes: Scenes, kind: str, level: int | float, *, seed: int = 0) -> None:
        one_of("corruption", kind, CORRUPTIONS)
        super().__init__(scenes, "corrupted", kind, level, seed)
        self.kind, self.level, self.seed = kind, level, seed

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[index]
        own = int(np.random.SeedSequence((self.seed, index)).generate_state(1)[0])
        image = CORRUPTIONS[self.kind](scene.image, self.level, own)
        return Scene(image=image, labels=scene.labels, names=scene.names, key=f"{scene.key} {self.kind} {self.level:g}")


class Bordered(Mapped):
    """``scenes`` centred on ``size`` x ``size`` pixels, on a border of each image's mean colour.

    The border is labelled background. Where the two sides can't be equal, the right and lower ones are a pixel wider.
    Raises FusionerError on access for a scene larger than ``size``.
    """

    def __init__(self, scenes: Scenes, *, size: int) -> None:
        super().__init__(scenes, "bordered", size)
        self.size = size

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[index]
        height, width = scene.labels.shape
        if max(height, width) > self.size:
            raise FusionerError(
                f"scene {scene.key!r} is {width}x{height} pixels, larger than {self.size}x{self.size}: shrink it first"
            )
        top, left = (self.size - height) // 2, (self.size - width) // 2
        image = np.empty((self.size, self.size, 3), dtype=np.uint8)
        image[:] = np.rint(scene.image.mean(axis=(0, 1))).astype(np.uint8)
        labels = np.zeros((self.size, self.size), dtype=np.uint8)
        image[top : top + height, left : left + width] = scene.image
        labels[top : top + height, left : left + width] = scene.labels
        return Scene(image=image, labels=labels, names=scene.names, key=scene.key)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise FusionerError(f"{name} = {value}: expected at least 1")
    return value
