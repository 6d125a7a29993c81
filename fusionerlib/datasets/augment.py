"""Augmentation of an image and its labels together: torchvision's v2 transforms, drawn anew for every view.

A view is decided by its seed alone, whichever process makes it, so a training is the same with any number of workers.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from fusionerlib.datasets.scene import Scene

Preset = Literal["pascal", "coco"]
SIDE = 224
"""Side of the view, in pixels, that ``Augmentation.elastic`` is given for; other views have it in proportion."""
_GENERATOR = threading.Lock()


@dataclass(frozen=True)
class Augmentation:
    """How views of an image may differ. The defaults are what the paper's two settings share.

    crop: probability of a random resized crop, which keeps ``area`` (a share of the image's); otherwise the shorter
    side is resized to the view's and a square is cropped at random.
    several: probability that anything else changes at all; each: probability of each of the following if so.
    jitter: brightness, contrast and saturation are multiplied by factors in 1 - jitter to 1 + jitter. hue: shifted by
    at most so much, of a full circle. noise: range of the variance of Gaussian noise on levels 0-255; None for no
    noise. Then a flip left to right. elastic: see ``Elastic``; None for none.
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

    def chain(self, size: int) -> v2.Transform:
        """The transform that makes ``size`` x ``size`` views; it draws from torch's global generator."""
        cropped = v2.RandomResizedCrop(size, scale=self.area)
        squared = v2.Compose([v2.Resize(size), v2.RandomCrop(size)])
        changes: list[v2.Transform] = []
        if self.jitter or self.hue:
            changes.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter, self.hue))
        if self.noise:
            changes.append(Noise(self.noise))
        changes.append(v2.RandomHorizontalFlip(1.0))
        if self.elastic:
            changes.append(Elastic(*self.elastic))
        if self.rotation or self.shift or self.scale:
            moved = v2.RandomAffine(
                self.rotation,
                translate=(self.shift, self.shift),
                scale=(1 - self.scale, 1 + self.scale),
                interpolation=InterpolationMode.BILINEAR,
            )
            changes.append(moved)
        return v2.Compose(
            [
                v2.RandomChoice([cropped, squared], p=[self.crop, 1 - self.crop]),
                v2.RandomApply([v2.RandomApply([change], self.each) for change in changes], self.several),
            ]
        )


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
    image = tv_tensors.Image(torch.from_numpy(scene.image.copy()).permute(2, 0, 1))
    labels = tv_tensors.Mask(torch.from_numpy(scene.labels.copy()))
    with _seeded(int(np.random.SeedSequence(seed).generate_state(1)[0])):
        image, labels = _chain(augmentation, size)(image, labels)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Scene(image=pixels, labels=labels.numpy(), names=scene.names, key=scene.key)


@cache
def _chain(augmentation: Augmentation, size: int) -> v2.Transform:
    return augmentation.chain(size)


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


class Noise(v2.Transform):
    """Gaussian noise on the levels (0-255) of a uint8 image, of a variance drawn from ``variance`` for each image.

    v2.GaussianNoise has one deviation, and cuts off the fractions of its noise: a fifth of a variance of 10.
    """

    def __init__(self, variance: tuple[float, float]) -> None:
        super().__init__()
        self.variance = variance

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The standard deviation for this image."""
        low, high = self.variance
        return {"deviation": float(low + (high - low) * torch.rand(())) ** 0.5}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image with its noise, rounded to whole levels; labels as they are."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        levels = inpt + params["deviation"] * torch.randn(inpt.shape)
        return tv_tensors.wrap(levels.round_().clamp_(0, 255).to(torch.uint8), like=inpt)


class Elastic(v2.Transform):
    """A random affine map and a random smooth displacement of every pixel.

    The affine map takes three corners of a square in the middle, a third of the side from its own middle, each to
    within ``affine`` pixels of where it was, both ways. The displacement is uniform noise in -alpha to alpha pixels,
    smoothed by a Gaussian of deviation ``sigma`` pixels: at the paper's alpha 1 and sigma 50 some 0.003 pixels, so the
    affine map is all that is seen. All three are for a view of ``SIDE`` pixels.
    """

    def __init__(self, alpha: float, sigma: float, affine: float) -> None:
        super().__init__()
        self.alpha, self.sigma, self.affine = alpha, sigma, affine

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The displacement of this image's pixels, as v2's functional takes it: a share of half a side."""
        height, width = v2.query_size(flat_inputs)
        # The corners (x, y, 1) before and after, in half sides around the middle; a pixel comes from the inverse map.
        before = torch.tensor([[1.0, 1.0, 1.5], [1.0, -1.0, 1.5], [-1.0, -1.0, 1.5]]) * (2 / 3)
        after = before.clone()
        after[:, :2] += (2 * torch.rand(3, 2) - 1) * (2 * self.affine / SIDE)
        back = torch.linalg.solve(after, before)
        y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        noise = 2 * torch.rand(2, height, width) - 1
        smooth = _gaussian(height, self.sigma / SIDE) @ noise @ _gaussian(width, self.sigma / SIDE).T
        displacement = (pixels @ back - pixels)[..., :2] + smooth.permute(1, 2, 0) * (2 * self.alpha / SIDE)
        return {"displacement": displacement[None]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image bilinearly, labels from the nearest pixel."""
        return v2.functional.elastic(inpt, **params, fill=0)


def _centres(length: int) -> Float[Tensor, " length"]:
    """Middles of pixels, -1 to 1 from edge to edge."""
    return (2 * torch.arange(length) + 1) / length - 1


@cache
def _gaussian(length: int, sigma: float) -> Float[Tensor, "length length"]:
    """The matrix that smooths along an axis by a Gaussian of deviation ``sigma``, a share of the axis."""
    distance = (torch.arange(length)[:, None] - torch.arange(length)) / (sigma * length)
    weights = torch.exp(-(distance**2) / 2)
    return weights / weights.sum(1, keepdim=True)
