"""Number formats of stored tokens: encoding to the tensors on disk, and decoding to float32.

``float16`` rounds to 11 bits. ``int8`` divides a token into blocks of 64 channels with a scale s each and stores
q = round(127 * sign(x) * sqrt(|x| / s)). Steps of equal size over a whole token would lose small values beside large
ones, such as class probabilities beside visual channels; steps in the square root are finer towards zero, and lose
nothing on tokens whose channels have one size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Float32, Int8
from torch import Tensor

from fusionerlib.errors import FusionerError

FormatName = Literal["float16", "int8"]
BLOCK = 64
"""Channels that share a scale."""
STEPS = 127
"""Largest stored integer."""
LEAST, LARGEST = 2.0**-24, 65504.0
"""The smallest positive and the largest number of half precision."""

Grid = Float[Tensor, "*places dim"]


@dataclass(frozen=True)
class NumberFormat:
    """How tokens are stored.

    parts: names of the stored tensors. encode: tokens to these tensors; raises FusionerError for values beyond half
    precision (65504) and for nan. decode: writes the tokens into a float32 tensor of their shape.
    """

    parts: tuple[str, ...]
    encode: Callable[[Grid], dict[str, Tensor]]
    decode: Callable[[Mapping[str, Tensor], Tensor], None]


def number_format(name: str) -> NumberFormat:
    """The format called ``name``. Raises FusionerError for an unknown one."""
    if name not in FORMATS:
        known = " or ".join(map(repr, get_args(FormatName)))
        raise FusionerError(f"store {name!r} is no format of features: choose {known}")
    return FORMATS[name]


def to_half(tokens: Grid) -> dict[str, Float16[Tensor, "*places dim"]]:
    """Tokens in half precision: relative error at most 2^-11 from 6e-5 up."""
    _check(tokens)
    return {"tokens": tokens.half()}


def from_half(parts: Mapping[str, Tensor], out: Float32[Tensor, "*places dim"]) -> None:
    """Decode the parts of ``to_half`` into ``out``."""
    out.copy_(parts["tokens"])


def to_int8(tokens: Grid) -> dict[str, Int8[Tensor, "*places dim"] | Float16[Tensor, "*places blocks"]]:
    """Signed square roots in 127 steps (``tokens``), and the largest absolute value of each block (``scales``).

    The error of a value x is at most (sqrt(x * scale) + scale / 508) / 127, so 1/127 of the scale at its largest.
    """
    _check(tokens)
    dim = tokens.shape[-1]
    padded = F.pad(tokens.float(), (0, -dim % BLOCK)).unflatten(-1, (-1, BLOCK))
    scales = padded.abs().amax(-1).half()
    # Divided by the scale as stored, which half precision may round to less than the largest value.
    shares = (padded / scales.float().clamp(min=LEAST)[..., None]).clamp(-1, 1)
    roots = (shares.abs().sqrt().copysign(shares) * STEPS).round().to(torch.int8)
    return {"tokens": roots.flatten(-2)[..., :dim].contiguous(), "scales": scales}


def from_int8(parts: Mapping[str, Tensor], out: Float32[Tensor, "*places dim"]) -> None:
    """Decode the parts of ``to_int8`` into ``out``."""
    out.copy_(parts["tokens"])
    out.mul_(out.abs())
    scales = parts["scales"].float() / STEPS**2
    whole = out.shape[-1] // BLOCK
    out[..., : whole * BLOCK].unflatten(-1, (whole, BLOCK)).mul_(scales[..., :whole, None])
    # The remaining channels, if any, are a block of their own.
    out[..., whole * BLOCK :].mul_(scales[..., whole:])


def _check(tokens: Tensor) -> None:
    least, most = (float(value) for value in tokens.aminmax())
    # Also false for nan.
    if not -LARGEST <= least <= most <= LARGEST:
        raise FusionerError(
            f"tokens from {least} to {most} can't be stored, only numbers from {-LARGEST:.0f} to {LARGEST:.0f} can: "
            "run the encoder with precision = float32"
        )


FORMATS: dict[str, NumberFormat] = {
    "float16": NumberFormat(("tokens",), to_half, from_half),
    "int8": NumberFormat(("tokens", "scales"), to_int8, from_int8),
}
