"""ProxyCLIP (Lan et al., ECCV 2024): a second frozen encoder decides which patches are averaged, the first one what.

CLIP's patches are in the space of its text, but the attention of its last block mixes patches of different things. Here
the attention is taken from another encoder, whose patches of one thing are alike (DINO). With A the cosines of that
encoder's patches, the attention of patch i to patch j is softmax_j of gamma (A_ij - beta mean A), and 0 where that is
negative. It averages the values of CLIP's last block; the rest of the block, residual and MLP, is left out. Nothing is
trained.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fusionerlib.encoders.base import TokenMap, VisualEncoder, VisualTokens, digest
from fusionerlib.errors import FusionerError

BETA, GAMMA = 1.2, 3.0
"""Shift and sharpness of the similarities, as published (the same for all data sets and encoders)."""


@dataclass(frozen=True)
class Affinity:
    """Which patches belong together. weights: 0-1, rows sum to 1: row i is what patch i of ``grid`` averages."""

    weights: Float[Tensor, "batch patches patches"]
    grid: tuple[int, int]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        tokens: Float[Tensor, "batch patches dim"],
        grid: tuple[int, int],
        *,
        beta: float = BETA,
        gamma: float = GAMMA,
    ) -> "Affinity":
        """The affinity of patch ``tokens`` of any length, row by row over ``grid``; the mean is that of each image.

        A patch always keeps itself: where nearly all patches are alike, beta times the mean exceeds every similarity,
        which the paper leaves open.
        """
        tokens = F.normalize(tokens.float(), dim=-1)
        similarity = tokens @ tokens.mT
        shifted = gamma * (similarity - beta * similarity.mean((1, 2), keepdim=True))
        own = torch.eye(len(similarity[0]), dtype=torch.bool, device=tokens.device)
        return cls(shifted.masked_fill((shifted < 0) & ~own, -torch.inf).softmax(-1), grid)

    def __call__(
        self, values: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels gridrows gridcolumns"]:
        """``values`` averaged; on another grid they are first resized bilinearly to this one, as in the paper."""
        if values.shape[-2:] != self.grid:
            values = F.interpolate(values, size=self.grid, mode="bilinear", align_corners=False)
        mixed = self.weights.to(values.dtype) @ rearrange(values, "b c h w -> b (h w) c")
        return rearrange(mixed, "b (h w) c -> b c h w", h=self.grid[0])


class AffinityEncoder:
    """Two frozen encoders as one visual encoder: patches of ``values``, averaged by the affinities of ``lender``.

    A token is the lender's token followed by the averaged one, each of unit length: a model that compares the last
    channels with text tokens (``training_free``, ``cost_aggregation``) finds the averaged one there, and cost
    aggregation takes the lender's for its guidance. The grid is the lender's.

    values: a ``VisualTower`` whose network can average by an affinity: CLIP's ViTs (with tokens ``last``, whose
    attention it replaces), CLIP's ResNets (the values of their attention pool), networks of timm inside open_clip
    (SigLIP, EVA-CLIP; features before pool and projection), and the packaged one (what its classifier finds at each
    patch). The paper has the first alone.
    Raises FusionerError for any other network, and for tokens that change the attention of the last block themselves.
    """

    def __init__(self, values: Any, lender: VisualEncoder, *, beta: float = BETA, gamma: float = GAMMA) -> None:
        if not getattr(values.network, "takes_affinity", False):
            kind = getattr(values.network, "kind", "")
            changed = f" with tokens {kind!r}, which change the last block themselves" if kind else ""
            raise FusionerError(
                f"affinity {lender.name!r}: visual encoder {values.name!r}{changed} has no values to average: choose a "
                "CLIP, SigLIP or EVA-CLIP, for CLIP with visual_tokens = '', or leave affinity empty"
            )
        self.values, self.lender, self.beta, self.gamma = values, lender, beta, gamma
        self.name = f"{values.name}+{lender.name}"
        self.width = lender.width + values.width
        self.stride, self.multiple = lender.stride, math.lcm(values.multiple, lender.multiple)
        self.fingerprint = digest(f"{values.fingerprint} {lender.fingerprint} {beta} {gamma}")

    @torch.no_grad()
    def __call__(
        self,
        images: UInt8[Tensor, "batch 3 height width"],
        *,
        outside: Bool[Tensor, "batch height width"] | None = None,
    ) -> VisualTokens:
        """Tokens of both, as in ``VisualEncoder``. Raises FusionerError as either of them does."""
        lent = self.lender(images, outside=outside).main
        affinity = Affinity.of(lent.tokens, lent.grid, beta=self.beta, gamma=self.gamma)
        averaged = self.values(images, outside=outside, affinity=affinity).main
        tokens = torch.cat([lent.tokens, averaged.tokens], dim=-1)
        main = TokenMap(tokens=tokens, grid=lent.grid, stride=lent.stride, space=averaged.space)
        return VisualTokens(maps={"joined": main, "values": averaged, "affinity": lent}, main_name="joined")
