"""Transformer blocks, written out so that attention can be looked at and every detail of the paper is in sight."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-5
"""torch's default, as in the paper's code; timm's 1e-6 shifts logits by 5e-3."""


class SelfAttention(nn.Module):
    """Multi-head self-attention: one qkv Linear with bias (q, k, v, each split into heads), scale head_dim ** -0.5."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], *, visible: Bool[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch tokens width"]:
        """Every token attends to the tokens that are ``visible`` (all of them if None)."""
        query, key, value = self._split(tokens)
        mask = None if visible is None else visible[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(mixed, "b heads n d -> b n (heads d)"))

    def weights(
        self, tokens: Float[Tensor, "batch tokens width"], *, visible: Bool[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """The attention itself, 0-1, rows summing to 1: row i is what token i reads from."""
        query, key, _ = self._split(tokens)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if visible is not None:
            scores = scores.masked_fill(~visible[:, None, None, :], float("-inf"))
        return scores.softmax(-1)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = rearrange(
            self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        return query, key, value


class FusionBlock(nn.Module):
    """Pre-norm block: x + Attn(LN x), then x + MLP(LN x) with the exact (erf) GELU.

    dropout: on what is added to the words. Patches are many and come from many scenes, names are few: it is the names
    that are learnt by heart, and leaving the patches out costs a sixth less time.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = SelfAttention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.dropout = dropout

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        *,
        words: int,
        visible: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """The tokens, the last ``words`` of which are words, after one round of reading from the ``visible`` ones."""
        tokens = tokens + self._dropped(self.attention(self.norm1(tokens), visible=visible), words)
        return tokens + self._dropped(self.mlp(self.norm2(tokens)), words)

    def _dropped(self, added: Tensor, words: int) -> Tensor:
        if not (self.training and self.dropout and words):
            return added
        patches, named = added.split([added.shape[1] - words, words], dim=1)
        return torch.cat([patches, F.dropout(named, self.dropout)], dim=1)


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm over all tokens."""

    def __init__(self, *, width: int, depth: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            FusionBlock(width=width, heads=heads, mlp_ratio=mlp_ratio, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        *,
        words: int,
        visible: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """The tokens, the last ``words`` of which are words, after all blocks."""
        for block in self.blocks:
            tokens = block(tokens, words=words, visible=visible)
        normed: Tensor = self.norm(tokens)
        return normed

    @torch.no_grad()
    def attention(
        self, tokens: Float[Tensor, "batch tokens width"], *, visible: Bool[Tensor, "batch tokens"] | None = None
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Each block's attention, first block first."""
        layers = []
        for block in self.blocks:
            assert isinstance(block, FusionBlock)
            layers.append(block.attention.weights(block.norm1(tokens), visible=visible))
            tokens = block(tokens, words=0, visible=visible)
        return layers
