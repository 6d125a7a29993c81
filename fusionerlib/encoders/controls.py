"""Text encoders that know no language: what a figure is worth is seen beside a model trained with one of them."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.encoders.base import EncoderSpec, LoadOptions


class Control(nn.Module):
    """A token of each name from ``seed_of`` alone, behind the ``TextEncoder`` protocol; templates change nothing.

    Names of one seed share a token: a unit vector, drawn from the seed.
    """

    def __init__(self, spec: EncoderSpec, *, seed_of: Callable[[str], int], device: str) -> None:
        super().__init__()
        self.name, self.space, self.width, self.fingerprint = spec.name, spec.space, spec.width, spec.name
        self._seed_of, self._device = seed_of, device

    def forward(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The tokens of ``names``, of unit length."""
        drawn = [np.random.default_rng(self._seed_of(name)).standard_normal(self.width) for name in names]
        return F.normalize(torch.from_numpy(np.array(drawn)).float().reshape(-1, self.width), dim=-1).to(self._device)


def constant(spec: EncoderSpec, options: LoadOptions) -> Control:
    """One token for every name: a fusion trained with it can only find objects, whatever it is asked."""
    return Control(spec, seed_of=lambda name: 0, device=options.device)


def arbitrary(spec: EncoderSpec, options: LoadOptions) -> Control:
    """A token of its own for every name, drawn from its letters: names differ, and nothing says options."""
    return Control(spec, seed_of=_digest, device=options.device)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
