"""Images made worse in one way and by one level: pure functions on pixels, and data sets of them. Labels stay."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.datasets.transforms import Mapped
from fusionerlib.errors import FusionerError

Pixels = UInt8[np.ndarray, "height width 3"]


def blurred(image: Pixels, level: int | float, seed: int = 0) -> Pixels:
    """Gaussian blur; the level is its standard deviation in pixels, which Pillow calls the radius."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(level)))


def noisy(image: Pixels, level: int | float, seed: int = 0) -> Pixels:
    """Gaussian noise on each pixel and channel; the level is its standard deviation on the scale 0-255."""
    noise = np.random.default_rng(seed).normal(0.0, level, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def compressed(image: Pixels, level: int | float, seed: int = 0) -> Pixels:
    """Through a JPEG file; the level is its quality, 1 (worst) to 95, colours at half size (4:2:0)."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=int(level), subsampling="4:2:0")
    with Image.open(stream) as opened:
        return np.array(opened.convert("RGB"))


CORRUPTIONS: dict[str, Callable[..., Pixels]] = {"blur": blurred, "noise": noisy, "JPEG": compressed}
"""What can be done to an image, by name."""


class Corrupted(Mapped):
    """``scenes`` with one of ``CORRUPTIONS`` at ``level`` on every image; noise is decided by (seed, index).

    Raises FusionerError for a corruption that is not known.
    """

    def __init__(self, scenes: Scenes, kind: str, level: int | float, *, seed: int = 0) -> None:
        if kind not in CORRUPTIONS:
            raise FusionerError(f"corruption {kind!r}: expected one of {', '.join(CORRUPTIONS)}")
        super().__init__(scenes, "corrupted", kind, level, seed)
        self.kind, self.level, self.seed = kind, level, seed

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[index]
        own = int(np.random.SeedSequence((self.seed, index)).generate_state(1)[0])
        image = CORRUPTIONS[self.kind](scene.image, self.level, own)
        return Scene(image=image, labels=scene.labels, names=scene.names, key=f"{scene.key} {self.kind} {self.level:g}")


class Bordered(Mapped):
    """``scenes`` in the middle of ``size`` x ``size`` pixels, on a border of each image's mean colour.

    The border is labelled background. Where it can't be equally wide on both sides, the right and lower one is a pixel
    wider. Raises FusionerError on reading for a scene that is larger than ``size``.
    """

    def __init__(self, scenes: Scenes, *, size: int) -> None:
        super().__init__(scenes, "bordered", size)
        self.size = size

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[index]
        height, width = scene.labels.shape
        if max(height, width) > self.size:
            raise FusionerError(
                f"scene {scene.key!r} is {width}x{height} pixels and has no room on {self.size}x{self.size}: shrink it "
                "first"
            )
        top, left = (self.size - height) // 2, (self.size - width) // 2
        image = np.empty((self.size, self.size, 3), dtype=np.uint8)
        image[:] = np.rint(scene.image.mean(axis=(0, 1))).astype(np.uint8)
        labels = np.zeros((self.size, self.size), dtype=np.uint8)
        image[top : top + height, left : left + width] = scene.image
        labels[top : top + height, left : left + width] = scene.labels
        return Scene(image=image, labels=labels, names=scene.names, key=scene.key)
