"""The decoder and the cosine head of ``decoder``, computed in another order: a training step takes less than half.

Bilinear resizing is linear and works on each channel by itself, so it can be exchanged with everything that works on
each pixel by itself. The expensive products are done on the small map, before it is resized:

- a 3x3 convolution of a resized map: the nine matrices of the kernel are applied to the small map, then resized,
  shifted and added (``resized_convolution``);
- cosines with a resized map: products with the text features are resized, and the lengths of the resized features
  follow from products of neighbouring features (``cosine_logits``).

Products are divided by the lengths, one number for each pixel and name, instead of all channels of each pixel.
Maps are kept channels last, (batch, height, width, channels), which makes a 1x1 convolution one matrix product.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fusionerlib.models import decoder
from fusionerlib.models.base import FeatureMap, Logits, Size, TextFeatures
from fusionerlib.models.decoder import INSTANCE_NORM_EPS, resize

SMALLEST = 1e-12
"""Least length that a feature is divided by, that of ``F.normalize``."""
NEIGHBOURS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))
"""Offsets (rows, columns) from a pixel to those that bilinear resizing mixes with it: the pixel itself, its neighbours
to the right and below, and both diagonals. The other four neighbours are these pairs read from the other side."""
CACHED = 2**20
"""Bytes of a map that are worked on at once on a CPU, so that they are read from its cache and not from memory."""

Map = Float[Tensor, "batch height width channels"]


class FastDecoder(decoder.Decoder):
    """``Decoder`` with the same parameters and the same values."""

    def forward(self, patches: Float[Tensor, "batch patches channels"], *, grid: Size) -> FeatureMap:
        """As ``Decoder.forward``."""
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
    size: Size,
) -> Float[Tensor, "batch newheight newwidth out"]:
    """``features`` resized to ``size``, then convolved (3x3, padding 1): where both sides double, in a quarter of the
    multiplications."""
    batch, height, width, _ = features.shape
    if (height, width) == size:
        same = F.conv2d(rearrange(features, "b h w c -> b c h w"), weight, bias, padding=1)
        return rearrange(same, "b c h w -> b h w c")
    rows, columns = (shifted(interpolation(features, old, new)) for old, new in zip((height, width), size, strict=True))
    across = rearrange(columns, "k new old -> new (old k)")
    # Resized and shifted, a constant is itself only under the kernel's middle: the bias is added there.
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


def interpolation(like: Tensor, old: int, new: int) -> Float[Tensor, "{new} {old}"]:
    """The matrix with which ``resize`` takes ``old`` pixels to ``new`` along one side; device and dtype of ``like``."""
    unit = torch.eye(old, device=like.device, dtype=like.dtype)
    return F.interpolate(unit[None], size=new, mode="linear", align_corners=False)[0].T


def shifted(rows: Float[Tensor, "new old"]) -> Float[Tensor, "3 new old"]:
    """The rows that the three taps of a kernel read: the row before, the row itself, the next one; zeros outside."""
    empty = torch.zeros_like(rows[:1])
    return torch.stack([torch.cat([empty, rows[:-1]]), rows, torch.cat([rows[1:], empty])])


def instance_norm(features: Map) -> Map:
    """Each channel of each image to mean 0 and variance 1."""
    normed: Tensor = _InstanceNorm.apply(features)
    return normed


class _InstanceNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) over height and width, channels last.

    ``F.instance_norm`` would copy the map to another layout. ``F.batch_norm`` reads this layout, but sums a channel
    into one float32 number, pixel by pixel: where a channel is nearly constant, the error of the mean is larger than
    the channel's deviations from it. Here sums are taken over rows first, of values from which a rough mean is already
    subtracted.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        batch, height, width, channels = features.shape
        single = torch.promote_types(features.dtype, torch.float32)
        # Of every fourth row: this mean is never further than two standard deviations from that of all rows.
        rough = features[:, ::4].mean((1, 2), keepdim=True, dtype=single)
        sums = rough.new_zeros(2, batch, width, channels)
        for rows in _row_blocks(features):
            centred = features[:, rows] - rough
            sums[0] += centred.sum(1)
            sums[1] += centred.square_().sum(1)
        mean, square = sums.mean(2)[:, :, None, None] / height
        scale = (square - mean.square() + INSTANCE_NORM_EPS).rsqrt()
        normed, shift = torch.empty_like(features), -mean * scale
        for rows in _row_blocks(features):
            torch.addcmul(shift, features[:, rows] - rough, scale, out=normed[:, rows])
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """scale * (g - mean(g) - y * mean(g * y))."""
        normed, scale = ctx.saved_tensors
        batch, height, width, channels = gradient.shape
        sums = scale.new_zeros(2, batch, width, channels)
        for rows in _row_blocks(gradient):
            block = gradient[:, rows].to(scale.dtype)
            sums[0] += block.sum(1)
            sums[1] += (block * normed[:, rows]).sum(1)
        mean, along = sums.mean(2)[:, :, None, None] / height
        found = torch.empty_like(gradient)
        for rows in _row_blocks(gradient):
            block = (gradient[:, rows] - mean).addcmul_(normed[:, rows].to(scale.dtype), along, value=-1)
            torch.mul(block, scale, out=found[:, rows])
        return found


def cosine_logits(features: FeatureMap, text: TextFeatures, *, temperature: float, size: Size | None = None) -> Logits:
    """As ``decoder.cosine_logits``, without making a map of unit features, or the resized map."""
    text = F.normalize(text, dim=-1)
    # Squared lengths need single precision, whatever the rest runs in.
    with torch.autocast(features.device.type, enabled=False):
        single = torch.promote_types(features.dtype, torch.float32)
        features, text = features.to(single), text.to(single)
        dots = torch.einsum("bchw,bkc->bkhw", features, text)
        if size is None:
            squares = features.square().sum(1)
        else:
            squares, dots = resized_squares(rearrange(features, "b c h w -> b h w c"), size), resize(dots, size)
        return dots / (squares.clamp(min=SMALLEST**2).sqrt()[:, None] * temperature)


def resized_squares(features: Map, size: Size) -> Float[Tensor, "batch newheight newwidth"]:
    """Squared length of each feature of the map resized to ``size``.

    A resized feature is a weighted mean of at most four neighbours, so its square is a sum over their products.
    """
    own, right, below, falling, rising = NeighbourProducts.apply(features)
    rows, columns = (interpolation(own, old, new) for old, new in zip(own.shape[1:], size, strict=True))
    # Weights of the square of one pixel, and of the product of two neighbours, which occurs twice.
    alone, both = (rows.square(), columns.square()), [2 * each[:, :-1] * each[:, 1:] for each in (rows, columns)]
    level = own @ alone[1].T + right @ both[1].T
    upright = below @ alone[1].T + (falling + rising) @ (both[1].T / 2)
    squares: Tensor = alone[0] @ level + both[0] @ upright
    return squares


class NeighbourProducts(torch.autograd.Function):
    """Dot products of each feature with those at ``NEIGHBOURS``, one map each; pairs that leave the map are left out.

    Written by hand because plain operators would write and read the whole map a dozen times.
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
    """Blocks of rows and of their neighbours: index of the neighbour, rows, and a view of both in ``features``."""
    height, width = features.shape[1:3]
    for rows in _row_blocks(features):
        for index, (down, right) in enumerate(NEIGHBOURS):
            start, stop = rows.start, min(rows.stop, height - down)
            if start < stop:
                left, shift = max(0, -right), max(0, right)
                first = features[:, start:stop, left : width - shift]
                second = features[:, start + down : stop + down, shift : width - left]
                yield index, slice(start, stop), first, second


def _row_blocks(features: Tensor) -> Iterator[slice]:
    """Slices of rows of about ``CACHED`` bytes on a CPU; one slice elsewhere."""
    batch, height, width, channels = features.shape
    row = batch * width * channels * features.element_size()
    step = max(1, CACHED // row) if features.device.type == "cpu" else height
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))
