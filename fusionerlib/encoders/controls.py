"""Control encoders without language: a model trained with one of them shows how much a result owes to the words."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.encoders.base import EncoderSpec, LoadOptions


class Control(nn.Module):
    """Random unit vectors behind the ``TextEncoder`` protocol: a name's token is drawn from the seed ``seed_of(name)``.

    Names of equal seed have the same token; templates have no effect.
    """

    def __init__(self, spec: EncoderSpec, *, seed_of: Callable[[str], int], device: str) -> None:
        super().__init__()
        self.name, self.space, self.width, self.fingerprint = spec.name, spec.space, spec.width, spec.name
        self._seed_of, self._device = seed_of, device

    def forward(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The unit-length tokens of ``names``."""
        drawn = [np.random.default_rng(self._seed_of(name)).standard_normal(self.width) for name in names]
        return F.normalize(torch.from_numpy(np.array(drawn)).float().reshape(-1, self.width), dim=-1).to(self._device)


def constant(spec: EncoderSpec, options: LoadOptions) -> Control:
    """The same token for every name: a model trained with it can only find objects, not tell names apart."""
    return Control(spec, seed_of=lambda name: 0, device=options.device)


def arbitrary(spec: EncoderSpec, options: LoadOptions) -> Control:
    """A random token for each name: names differ, and their similarities carry no meaning."""
    return Control(spec, seed_of=_digest, device=options.device)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
