"""The visual decoder (fused patch tokens to a finer feature map) and the cosine head.

Both compute what the paper's table says, in another order: a convolution of an enlarged map, and the cosines of an
enlarged one, are worked out on the small map wherever enlarging commutes. A training step costs less than half.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

INSTANCE_NORM_EPS = 1e-5
SMALLEST = 1e-12
"""Least length that a feature is divided by (that of ``F.normalize``)."""
NEIGHBOURS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns from a pixel to those whose features a bilinear enlargement mixes with its own: itself, the one to
the right, below, and the diagonals."""
CACHED = 2**20
"""Bytes of features whose products are formed at once on a CPU: they are then read from its cache, not from memory."""

Map = Float[Tensor, "batch height width channels"]


def resize(
    features: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels newheight newwidth"]:
    """Bilinear, ``align_corners=False``: the one way that everything is resized (paper)."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """One more 3x3 convolution than ``scales``, each with InstanceNorm (no affine, no statistics) and ReLU.

    inner: channels between the first convolution and the last. After convolution i the map is resized to ``scales[i]``
    times the token grid; a 1x1 convolution closes.
    """

    def __init__(self, *, width: int, inner: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner if index else width, inner, 3, padding=1) for index in range(len(scales) + 1)
        )
        self.last = nn.Conv2d(inner, width, 1)

    def forward(
        self, patches: Float[Tensor, "batch patches width"], *, grid: tuple[int, int]
    ) -> Float[Tensor, "batch width height width2"]:
        """Patch tokens, row by row over ``grid`` (height, width), to features at ``scales[-1]`` times the grid."""
        features = rearrange(patches, "b (h w) c -> b h w c", h=grid[0], w=grid[1])
        for scale, convolution in zip((1, *self.scales), self.convolutions, strict=True):
            size = (grid[0] * scale, grid[1] * scale)
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            features = resized_convolution(features, convolution.weight, convolution.bias, size=size)
            features = F.relu(instance_norm(features))
        features = F.linear(features, self.last.weight[:, :, 0, 0], self.last.bias)
        return rearrange(features, "b h w c -> b c h w")


def resized_convolution(
    features: Map,
    weight: Float[Tensor, "out channels 3 3"],
    bias: Float[Tensor, " out"],
    *,
    size: tuple[int, int],
) -> Float[Tensor, "batch newheight newwidth out"]:
    """``features`` resized to ``size``, then convolved (3x3, padding 1).

    Resizing works on each channel and each of the nine matrices of a kernel on each pixel, so they commute: the
    matrices are applied to the small map, and what they gave is resized, shifted and added. Where both sides double
    that is a quarter of the multiplications.
    """
    batch, height, width, _ = features.shape
    if (height, width) == size:
        same = F.conv2d(rearrange(features, "b h w c -> b c h w"), weight, bias, padding=1)
        return rearrange(same, "b c h w -> b h w c")
    rows, columns = shifted(interpolation(features, height, size[0])), shifted(interpolation(features, width, size[1]))
    across = rearrange(columns, "k new old -> new (old k)")
    # The bias joins the kernel's middle, whose weights over the small map add up to 1 everywhere.
    biases = (None, torch.cat([torch.zeros_like(bias), bias, torch.zeros_like(bias)]), None)
    out: Tensor | None = None
    for matrices, added, down in zip(weight.unbind(2), biases, rows, strict=True):
        part = F.linear(features, rearrange(matrices, "out c k -> (k out) c"), added)
        part = across @ rearrange(part, "b h w (k out) -> (b h) (w k) out", k=3)
        part = rearrange(part, "(b h) new out -> b h (new out)", b=batch)
        down = down.expand(batch, -1, -1)
        out = torch.bmm(down, part) if out is None else torch.baddbmm(out, down, part)
    assert out is not None
    return rearrange(out, "b h (w out) -> b h w out", w=size[1])


def instance_norm(features: Map) -> Map:
    """Every channel of every image to mean 0 and variance 1.

    A batch norm of one image, which reads channels last as they are; ``F.instance_norm`` would turn the map about.
    """
    images = rearrange(features, "b h w c -> b c h w").split(1)
    normed = [F.batch_norm(image, None, None, training=True, eps=INSTANCE_NORM_EPS) for image in images]
    return rearrange(torch.cat(normed), "b c h w -> b h w c")


def cosine_logits(
    features: Float[Tensor, "batch width height width2"],
    words: Float[Tensor, "batch names width"],
    *,
    temperature: float,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch names newheight newwidth"]:
    """Cosine between every pixel's feature and every word, divided by the temperature: within +-1 / temperature.

    size: what the features are resized to first; their own if None. The resized map is never made: a product with a
    word is resized itself, and a length follows from the products of neighbouring features.
    """
    words = F.normalize(words, dim=-1)
    if size is None:
        return torch.einsum("bchw,bkc->bkhw", F.normalize(features, dim=1), words) / temperature
    # Lengths squared need single precision, whatever the rest runs in.
    with torch.autocast(features.device.type, enabled=False):
        single = torch.promote_types(features.dtype, torch.float32)
        features, words = features.to(single), words.to(single)
        dots = torch.einsum("bchw,bkc->bkhw", features, words)
        lengths = resized_squares(rearrange(features, "b c h w -> b h w c"), size).clamp(min=SMALLEST**2).sqrt()
        return resize(dots, size) / (lengths[:, None] * temperature)


def resized_squares(features: Map, size: tuple[int, int]) -> Float[Tensor, "batch newheight newwidth"]:
    """Squared length of each feature of the map resized to ``size``.

    A resized feature is a mean of at most four that touch; its square is the sum over their products.
    """
    own, right, below, falling, rising = NeighbourProducts.apply(features)
    rows, columns = (interpolation(own, old, new) for old, new in zip(own.shape[1:], size, strict=True))
    # A row's share in the squares of one pixel, and in the products of two that touch, either way round.
    alone, both = (rows.square(), columns.square()), [2 * each[:, :-1] * each[:, 1:] for each in (rows, columns)]
    level = own @ alone[1].T + right @ both[1].T
    upright = below @ alone[1].T + (falling + rising) @ (both[1].T / 2)
    squares: Tensor = alone[0] @ level + both[0] @ upright
    return squares


class NeighbourProducts(torch.autograd.Function):
    """Products of each feature with those of ``NEIGHBOURS``, a map for each; pairs that leave the map are left out.

    By hand because plain operators would write and read the whole map a dozen times.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features)
        batch, height, width, _ = features.shape
        products = [features.new_empty(batch, height - down, width - abs(right)) for down, right in NEIGHBOURS]
        for index, rows, first, second in _pairs(features):
            products[index][:, rows] = (first * second).sum(-1)
        return tuple(products)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        found = torch.zeros_like(features)
        for (index, rows, first, second), (_, _, to_first, to_second) in zip(
            _pairs(features), _pairs(found), strict=True
        ):
            gradient = gradients[index][:, rows, :, None]
            to_first.addcmul_(gradient, second)
            to_second.addcmul_(gradient, first)
        return found


def _pairs(features: Tensor) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Views of some rows of ``features`` and of their neighbours: index of the neighbour, rows, both views."""
    batch, height, width, channels = features.shape
    row = batch * width * channels * features.element_size()
    step = max(1, CACHED // row) if features.device.type == "cpu" else height
    for start in range(0, height, step):
        for index, (down, right) in enumerate(NEIGHBOURS):
            stop = min(start + step, height - down)
            if start < stop:
                left, shift = max(0, -right), max(0, right)
                first = features[:, start:stop, left : width - shift]
                second = features[:, start + down : stop + down, shift : width - left]
                yield index, slice(start, stop), first, second


def interpolation(like: Tensor, old: int, new: int) -> Float[Tensor, "{new} {old}"]:
    """The matrix by which ``resize`` takes ``old`` pixels to ``new`` along one side, on the device of ``like``."""
    unit = torch.eye(old, device=like.device, dtype=like.dtype)
    return F.interpolate(unit[None], size=new, mode="linear", align_corners=False)[0].T


def shifted(rows: Float[Tensor, "new old"]) -> Float[Tensor, "3 new old"]:
    """What a kernel's three places read: the row before, the row itself, the row after, zeros beyond the border."""
    empty = torch.zeros_like(rows[:1])
    return torch.stack([torch.cat([empty, rows[:-1]]), rows, torch.cat([rows[1:], empty])])
