"""A data set is a sequence of scenes: an image, a label map, and the names of what is labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8
from PIL import Image

from fusionerlib.errors import FusionerError

IGNORE = 255
"""The ignore index (as in PASCAL VOC): pixels with this label are left out of loss and metrics."""


@dataclass(frozen=True)
class Scene:
    """One labelled image.

    image: RGB, 0-255.
    labels: 0 is background, k + 1 is ``names[k]``, 255 is ignored.
    names: the labelled names, as words for a text encoder; at most 254.
    key: an identifier of the scene, unique within its data set; shown in tables and figures.
    Raises FusionerError where image and labels differ in size, and for more than 254 names.
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

    def mask(self, name: str) -> Bool[np.ndarray, "height width"]:
        """The pixels of ``name``; all False where the scene does not have that name."""
        if name not in self.names:
            return np.zeros(self.labels.shape, dtype=bool)
        return self.labels == self.names.index(name) + 1


@runtime_checkable
class Scenes(Protocol):
    """A data set: scenes by index, and their names without opening an image."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of everything that decides the scenes (files, settings, seeds); stored features are found
        again by it."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``, equal to ``self[index].names``."""
        ...


def vocabulary(scenes: Scenes) -> list[str]:
    """All names that occur in ``scenes``, sorted."""
    return sorted({name for index in range(len(scenes)) for name in scenes.names(index)})


def resized(scene: Scene, *, width: int, height: int) -> Scene:
    """The scene at another size: the image by bilinear interpolation with antialiasing, the labels by nearest
    neighbour (both Pillow's)."""
    image = Image.fromarray(scene.image).resize((width, height), Image.Resampling.BILINEAR)
    labels = Image.fromarray(scene.labels).resize((width, height), Image.Resampling.NEAREST)
    return Scene(image=np.array(image), labels=np.array(labels), names=scene.names, key=scene.key)


def relabelled(
    raw: UInt8[np.ndarray, "height width"], *, classes: Sequence[int], ignored: Sequence[int] = ()
) -> UInt8[np.ndarray, "height width"]:
    """A data set's class indices (0-255) as scene labels.

    ``classes[k]`` becomes k + 1; each of ``ignored``, and 255, becomes 255; everything else becomes 0 (background).
    """
    table = np.zeros(256, dtype=np.uint8)
    table[list(classes)] = np.arange(1, len(classes) + 1)
    table[[*ignored, IGNORE]] = IGNORE
    # bytes.translate is several times faster than indexing with an array.
    return np.frombuffer(bytearray(raw).translate(table.tobytes()), dtype=np.uint8).reshape(raw.shape)


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
