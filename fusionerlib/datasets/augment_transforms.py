"""The transforms of ``augment``, on torchvision's v2."""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from fusionerlib.datasets.augment import Augmentation

SIDE = 224
"""Side of the view, in pixels, that ``Augmentation.elastic`` is given for; other views have it in proportion."""


def chain(augmentation: Augmentation, size: int) -> v2.Transform:
    """The transform that makes ``size`` x ``size`` views; it draws from torch's global generator."""
    cropped = v2.RandomResizedCrop(size, scale=augmentation.area)
    squared = v2.Compose([v2.Resize(size), v2.RandomCrop(size)])
    changes: list[v2.Transform] = []
    if augmentation.jitter or augmentation.hue:
        changes.append(v2.ColorJitter(augmentation.jitter, augmentation.jitter, augmentation.jitter, augmentation.hue))
    if augmentation.noise:
        changes.append(Noise(augmentation.noise))
    changes.append(v2.RandomHorizontalFlip(1.0))
    if augmentation.elastic:
        changes.append(Elastic(*augmentation.elastic))
    if augmentation.rotation or augmentation.shift or augmentation.scale:
        moved = v2.RandomAffine(
            augmentation.rotation,
            translate=(augmentation.shift, augmentation.shift),
            scale=(1 - augmentation.scale, 1 + augmentation.scale),
            interpolation=InterpolationMode.BILINEAR,
        )
        changes.append(moved)
    return v2.Compose(
        [
            v2.RandomChoice([cropped, squared], p=[augmentation.crop, 1 - augmentation.crop]),
            v2.RandomApply([v2.RandomApply([change], augmentation.each) for change in changes], augmentation.several),
        ]
    )


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
