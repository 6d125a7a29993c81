"""Augmentation of an image and its labels together, drawn anew for every view.

A view is decided by its seed alone, whichever process makes it, so a training is the same with any number of workers.
The transforms are in ``augment_transforms``. It imports torchvision, which takes seconds, so only the first view does.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fusionerlib.datasets.scene import Scene

if TYPE_CHECKING:
    from torchvision.transforms import v2

Preset = Literal["pascal", "coco"]
_GENERATOR = threading.Lock()


@dataclass(frozen=True)
class Augmentation:
    """How views of an image may differ. The defaults are what the paper's two settings share.

    crop: probability of a random resized crop, which keeps ``area`` (a share of the image's); otherwise the shorter
    side is resized to the view's and a square is cropped at random.
    several: probability that anything else changes at all; each: probability of each of the following if so.
    jitter: brightness, contrast and saturation are multiplied by factors in 1 - jitter to 1 + jitter. hue: shifted by
    at most so much, of a full circle. noise: range of the variance of Gaussian noise on levels 0-255; None for no
    noise. Then a flip left to right. elastic: see ``augment_transforms.Elastic``; None for none.
    shift, scale: at most so much, as shares of the side and of 1. rotation: at most so many degrees.
    What comes from outside the image is 0: black, and background in the labels.
    """

    jitter: float
    hue: float
    rotation: float
    crop: float = 0.5
    area: tuple[float, float] = (0.5, 1.0)
    several: float = 0.5
    each: float = 0.5
    noise: tuple[float, float] | None = (10.0, 50.0)
    elastic: tuple[float, float, float] | None = (1.0, 50.0, 20.0)
    shift: float = 0.1
    scale: float = 0.1


PRESETS: dict[Preset, Augmentation] = {
    "pascal": Augmentation(jitter=0.5, hue=0.5, rotation=20.0),
    "coco": Augmentation(jitter=0.2, hue=0.2, rotation=10.0),
}
"""The paper's two settings."""

STORED = Augmentation(
    jitter=0.5, hue=0.0, rotation=0.0, crop=1.0, several=1.0, noise=None, elastic=None, shift=0.0, scale=0.0
)
"""Of views whose features are stored: crop, flip and jitter. Hue stays, since a name may hold a colour word."""


def view(scene: Scene, *, augmentation: Augmentation, size: int, seed: tuple[int, ...]) -> Scene:
    """A ``size`` x ``size`` view of ``scene``, decided by ``seed``: any whole numbers that are not negative.

    Names stay, even where the crop left an object out: its mask is then empty. torch's global generator stays as it
    was.
    """
    from torchvision import tv_tensors

    image = tv_tensors.Image(torch.from_numpy(scene.image.copy()).permute(2, 0, 1))
    labels = tv_tensors.Mask(torch.from_numpy(scene.labels.copy()))
    with _seeded(int(np.random.SeedSequence(seed).generate_state(1)[0])):
        image, labels = _chain(augmentation, size)(image, labels)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Scene(image=pixels, labels=labels.numpy(), names=scene.names, key=scene.key)


@cache
def _chain(augmentation: Augmentation, size: int) -> "v2.Transform":
    from fusionerlib.datasets.augment_transforms import chain

    return chain(augmentation, size)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator at ``seed`` in here, and one thread: the last bits of a mean depend on their number."""
    threads = torch.get_num_threads()
    # One generator serves the whole process, so views made in threads take turns.
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        if threads > 1:
            torch.set_num_threads(1)
        try:
            # The CPU generator alone: torch.manual_seed would reach the accelerators' too, which nothing here restores.
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            if threads > 1:
                torch.set_num_threads(threads)
