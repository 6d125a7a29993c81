"""What every data set is made of: an image, a label map, and the names of what is labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from fusionerlib.errors import FusionerError

IGNORE = 255
"""Label of pixels that neither train nor count (the ignore index of PASCAL VOC)."""


@dataclass(frozen=True)
class Scene:
    """One labelled image.

    image: RGB, 0-255.
    labels: 0 is background, i is ``names[i - 1]``, 255 is ignored.
    names: what is labelled, as words for a text encoder; at most 254.
    key: the scene's identity within its data set, for tables and figures.
    """

    image: UInt8[np.ndarray, "height width 3"]
    labels: UInt8[np.ndarray, "height width"]
    names: tuple[str, ...]
    key: str

    def __post_init__(self) -> None:
        if self.image.shape[:2] != self.labels.shape:
            raise FusionerError(
                f"scene {self.key!r}: the image is {self.image.shape[:2]} but its mask is {self.labels.shape} "
                "(height, width): both must cover the same pixels; export the mask again at the image's size"
            )
        if len(self.names) >= IGNORE:
            raise FusionerError(f"scene {self.key!r} has {len(self.names)} names; a label map holds at most 254")

    def mask(self, name: str) -> np.ndarray:
        """Bool (height, width): the pixels of ``name``, all False where it is not in the scene."""
        if name not in self.names:
            return np.zeros(self.labels.shape, dtype=bool)
        return self.labels == self.names.index(name) + 1


@runtime_checkable
class Scenes(Protocol):
    """A data set: scenes by index, and their names without opening an image."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that decides the scenes (files, recipe, seeds)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, equal to ``self[index].names``."""
        ...


def vocabulary(scenes: Scenes) -> list[str]:
    """All names that occur in ``scenes``, sorted."""
    return sorted({name for index in range(len(scenes)) for name in scenes.names(index)})


def labels_for(
    labels: Integer[np.ndarray, "height width"], names: Sequence[str], asked: Sequence[str]
) -> Int32[np.ndarray, "height width"]:
    """Labels that count ``names`` as labels that count ``asked``.

    Label k + 1 (``names[k]``) becomes ``asked.index(names[k]) + 1``, or 0 where that name is not asked; 255 stays.
    """
    table = np.zeros(256, dtype=np.int32)
    table[IGNORE] = IGNORE
    for label, name in enumerate(names, start=1):
        if name in asked:
            table[label] = asked.index(name) + 1
    return table[labels]
