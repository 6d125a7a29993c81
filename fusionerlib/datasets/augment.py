"""The paper's augmentation of image and labels together; a view is decided by (seed, epoch, index) alone.

What is drawn (``Change``) is apart from how it is applied (``changed``). The result is that of a chain of torchvision's
v2 transforms, but the chain resamples up to four times and draws from torch's one generator. Here a crop is resized
once, at which most views are done; flip, elastic, shift, scale and rotation are one grid over the ``size`` x ``size``
result, and all jitter is one 3x3 matrix on its colours. Feeding must not cost more than decoding.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fusionerlib.datasets.scene import Scene

Jitter = Literal["brightness", "contrast", "saturation"]
Preset = Literal["pascal", "coco"]
GREY = np.array([0.2989, 0.587, 0.114])
"""Red, green and blue in a pixel's grey, as torchvision weighs them."""
KNOTS = 13
SMOOTH = 1 / (KNOTS - 5)
"""Distance of the knots of an elastic displacement, and how far each reaches, as a share of the view's side."""


@dataclass(frozen=True)
class Augmentation:
    """How far views may differ. Where the paper gives no figure, the choice is ours and marked so.

    crop: how often a view is a random resized crop, of ``area`` (a share of the image's) and ``ratio`` (width by
    height, torchvision's default); else the shorter side becomes the view's, and a square is cropped.
    several: how often anything more happens; each: how often each of the following does then.
    jitter: brightness, contrast and saturation change by a factor in 1 - jitter to 1 + jitter. Hue stays: the paper
    gives none, and a name may hold a colour word. noise: standard deviation, white being 1 (torchvision's default).
    elastic: standard deviation of the displacement both ways, as a share of the side (ours).
    shift, scale: at most so much, as a share of the side and of 1. rotation: at most so many degrees.
    """

    jitter: float
    rotation: float
    crop: float = 0.5
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    several: float = 0.5
    each: float = 0.5
    noise: float = 0.1
    elastic: float = 0.01
    shift: float = 0.1
    scale: float = 0.1


PRESETS: dict[Preset, Augmentation] = {
    "pascal": Augmentation(jitter=0.5, rotation=20.0),
    "coco": Augmentation(jitter=0.2, rotation=10.0),
}
"""The paper's two settings."""


@dataclass(frozen=True)
class Change:
    """One view's draws. By default nothing changes but the size.

    box: top, left, height and width of the crop in source pixels. jitter: (what, factor) in order of application.
    noise: standard deviation as in ``Augmentation``; noise_start: where in the
    table of noise it begins, 0 to 1. flip: mirrored left to right.
    knots: displacements (2, n, n) at the knots, x first, as shares of the side; None for no elastic.
    shift: to the right and down, as shares of the side. scale: above 1 enlarges. angle: clockwise, in degrees.
    """

    box: tuple[int, int, int, int]
    jitter: tuple[tuple[Jitter, float], ...] = ()
    noise: float = 0.0
    noise_start: float = 0.0
    flip: bool = False
    knots: Float[np.ndarray, "2 knots knots"] | None = None
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    angle: float = 0.0

    @property
    def warps(self) -> bool:
        """Whether pixels move by more than crop, resize and flip."""
        return self.knots is not None or (self.shift, self.scale, self.angle) != ((0.0, 0.0), 1.0, 0.0)


def view(scene: Scene, *, augmentation: Augmentation, size: int, seed: int, epoch: int, index: int) -> Scene:
    """The ``size`` x ``size`` view of ``scene``, the ``index``-th of its set, in ``epoch``.

    Names stay, even where the crop left an object out: its mask is then empty. No global generator is drawn from.
    """
    rng = np.random.default_rng((seed, epoch, index))
    height, width = scene.labels.shape
    return changed(scene, drawn(augmentation, height=height, width=width, rng=rng), size=size)


def drawn(augmentation: Augmentation, *, height: int, width: int, rng: np.random.Generator) -> Change:
    """A random change of an image of ``height`` x ``width`` pixels."""
    a = augmentation
    box = _box(a, height, width, rng)
    if rng.random() >= a.several:
        return Change(box)
    jittered, noisy, flip, elastic, moved = (bool(chosen) for chosen in rng.random(5) < a.each)
    kinds: tuple[Jitter, ...] = ("brightness", "contrast", "saturation")
    factors = [float(factor) for factor in rng.uniform(max(0.0, 1 - a.jitter), 1 + a.jitter, 3)]
    jitter = tuple((kinds[kind], factors[kind]) for kind in rng.permutation(3))
    right, down, zoom, turn = (float(part) for part in rng.uniform(-1, 1, 4))
    knots = rng.standard_normal((2, *[KNOTS] * 2), dtype=np.float32) * a.elastic if elastic else None
    return Change(
        box,
        jitter=jitter if jittered else (),
        noise=a.noise if noisy else 0.0,
        noise_start=float(rng.random()),
        flip=flip,
        knots=knots,
        shift=(right * a.shift, down * a.shift) if moved else (0.0, 0.0),
        scale=1 + zoom * a.scale if moved else 1.0,
        angle=turn * a.rotation if moved else 0.0,
    )


def changed(scene: Scene, change: Change, *, size: int) -> Scene:
    """``scene`` after ``change``, ``size`` x ``size`` pixels: crop, jitter, noise, flip, elastic and affine, in turn.

    The image is resized antialiased and warped bilinearly, labels go to the nearest pixel. What comes from outside
    is 0: black, and background in the labels.
    """
    top, left, height, width = change.box
    window = np.s_[top : top + height, left : left + width]
    # What v2.resize calls; v2 then puts the channels last again, as the array has them, and what follows is slower.
    pixels = torch.from_numpy(scene.image[window].copy()).permute(2, 0, 1)[None]
    image = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)[0].contiguous()
    labels = torch.from_numpy(_nearest(scene.labels[window], size))
    if change.jitter or change.noise or change.warps:
        levels = _recoloured(image.float(), change)
        if change.warps:
            grid = _grid(change, size)
            levels = F.grid_sample(levels[None], grid, align_corners=False)[0]
            moved = F.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)
            labels = _bytes(moved[0, 0])
        image = _bytes(levels)
    if change.flip and not change.warps:
        image, labels = image.flip(-1), labels.flip(-1)
    return Scene(image=image.permute(1, 2, 0).numpy(), labels=labels.numpy(), names=scene.names, key=scene.key)


def _box(augmentation: Augmentation, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    # A square of the shorter side, scaled, is what scaling the shorter side and cropping the view's square gives.
    box = min(height, width), min(height, width)
    if rng.random() < augmentation.crop:
        low, high = augmentation.ratio
        for _ in range(10):
            area = height * width * rng.uniform(*augmentation.area)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < tall <= height and 0 < wide <= width:
                box = tall, wide
                break
    return int(rng.integers(height - box[0] + 1)), int(rng.integers(width - box[1] + 1)), *box


def _nearest(labels: UInt8[np.ndarray, "height width"], size: int) -> UInt8[np.ndarray, "size size"]:
    """The label under each output pixel's centre (v2 resizes masks half a source pixel off the image)."""
    rows, columns = (((np.arange(size) + 0.5) * length / size).astype(np.intp) for length in labels.shape)
    return labels.take(rows, axis=0).take(columns, axis=1)


def _recoloured(levels: Float[Tensor, "3 size size"], change: Change) -> Float[Tensor, "3 size size"]:
    """Jitter and noise on levels 0-255; only the end is cut at black and white, not every step."""
    if not (change.jitter or change.noise):
        return levels
    size = levels.shape[-1]
    flat = levels.view(3, -1)
    if change.jitter:
        # numpy's mean: torch's last bits depend on the number of threads, and views must not.
        matrix, offset = colour_matrix(change.jitter, mean=flat.numpy().mean(1))
        flat = torch.addmm(torch.from_numpy(offset[:, None]).float(), torch.from_numpy(matrix).float(), flat)
    if change.noise:
        noise = _noise(flat.numel())
        start = int(change.noise_start * 7 * flat.numel())
        flat = flat.add(noise[start : start + flat.numel()].view_as(flat), alpha=255 * change.noise)
    return flat.clamp_(0, 255).view(3, size, size)


@cache
def _noise(count: int) -> Float[Tensor, " values"]:
    """Eight images' worth of noise: drawing it anew for each view takes longer than opening the image."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal(8 * count, dtype=np.float32))


def colour_matrix(
    jitter: tuple[tuple[Jitter, float], ...], *, mean: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Matrix and offset that take a pixel through ``jitter``; ``mean``: the image's mean red, green and blue.

    Each step is linear in the pixel: brightness scales it, saturation mixes it with its grey, and contrast with the
    mean grey of the image so far, which is the grey of the mean.
    """
    matrix, offset = np.eye(3), np.zeros(3)
    for kind, factor in jitter:
        step = factor * np.eye(3)
        shift = np.zeros(3)
        if kind == "saturation":
            step += (1 - factor) * np.outer(np.ones(3), GREY)
        elif kind == "contrast":
            shift += (1 - factor) * GREY @ (matrix @ mean + offset)
        matrix, offset = step @ matrix, step @ offset + shift
    return matrix, offset


def _grid(change: Change, size: int) -> Float[Tensor, "1 size size 2"]:
    """Where each output pixel comes from, -1 to 1 from edge to edge: affine, then elastic, then flip, all inverted."""
    axis = (np.arange(size, dtype=np.float32) * 2 + 1) / size - 1
    cosine, sine = (part(math.radians(change.angle)) / change.scale for part in (math.cos, math.sin))
    x, y = (axis - np.float32(2 * shift) for shift in change.shift)
    grid = np.empty((size, size, 2), dtype=np.float32)
    np.add.outer(y * np.float32(sine), x * np.float32(cosine), out=grid[..., 0])
    np.add.outer(y * np.float32(cosine), x * np.float32(-sine), out=grid[..., 1])
    if change.knots is not None:
        # A chain would take the displacement where the affine leads, not here: as random a field, only turned.
        basis, columns = _basis(size)
        rows = (basis @ torch.from_numpy(change.knots)).permute(1, 2, 0).reshape(size, -1)
        grid += (rows @ columns).numpy().reshape(grid.shape)
    if change.flip:
        np.negative(grid[..., 0], out=grid[..., 0])
    return torch.from_numpy(grid[None])


@cache
def _basis(size: int) -> tuple[Float[Tensor, "size knots"], Float[Tensor, "both_knots both_sizes"]]:
    """What each knot along an axis adds at each pixel: Gaussians, so scaled that knots of deviation 1 displace by 1.

    Then the same for x and y in turns, both ways, so that one product gives a grid's layout; doubled, since a side
    of a grid is 2 long.
    """
    pixels = (torch.arange(size) + 0.5) / size
    knots = (torch.arange(KNOTS) - 2) * SMOOTH
    basis = F.normalize(torch.exp(-(((pixels[:, None] - knots) / SMOOTH) ** 2) / 2), dim=1)
    return basis, torch.kron(2 * basis.T.contiguous(), torch.eye(2))


def _bytes(levels: Tensor) -> Tensor:
    # numpy converts to bytes several times faster than torch does.
    return torch.from_numpy(np.rint(levels.numpy()).astype(np.uint8))
