"""Transformer blocks, written out so that attention can be looked at and every detail of the paper is in sight.

The models of the paper: words and patches as tokens of one width. Subclasses say where the two meet.

Fusioner: patches and words attend to each other from the first block on (early fusion).

Late fusion, the paper's baseline: each side has its own transformer; they meet only in the final product.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.models.cosine_head import CosineHeadModel
from fusionerlib.models.decoder import Decoder

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


class TokenModel(CosineHeadModel):
    """Projections of both sides, a subclass's ``mix``, two final matrices, decoder and cosine head (paper, section 3).

    The parameters are the paper's table with ``config`` in place of its numbers.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        width = config.width
        self.visual_projection = nn.Sequential(
            nn.LayerNorm(visual_width, eps=LAYER_NORM_EPS),
            nn.Linear(visual_width, width),
            nn.LayerNorm(width, eps=LAYER_NORM_EPS),
        )
        self.text_projection = nn.Sequential(nn.LayerNorm(text_width, eps=LAYER_NORM_EPS), nn.Linear(text_width, width))
        self.category = nn.Parameter(torch.randn(1, width)) if config.modality else None
        self.patch_matrix = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.word_matrix = nn.Parameter(torch.randn(width, width) * width**-0.5)
        # Most pixels belong to no name: a bias that starts low saves the steps that would go into learning to say no.
        self.bias = nn.Parameter(torch.tensor([config.logit_bias])) if config.logit_bias else None
        self.decoder = Decoder(width=width, inner=config.decoder_width or width, scales=config.decoder_scales)

    def mix(
        self,
        patches: Float[Tensor, "batch patches width"],
        words: Float[Tensor, "batch names width"],
        *,
        names_mask: Bool[Tensor, "batch names"] | None,
    ) -> tuple[Float[Tensor, "batch patches width"], Float[Tensor, "batch names width"]]:
        """Projected tokens of both sides to mixed ones."""
        raise NotImplementedError

    def project(
        self, patch_tokens: Float[Tensor, "batch patches visual"], text_tokens: Float[Tensor, "batch names text"]
    ) -> tuple[Float[Tensor, "batch patches width"], Float[Tensor, "batch names width"]]:
        """Both sides in the model's width, the shared category vector added to the words."""
        self.check_widths(patch_tokens, text_tokens)
        patches, words = self.visual_projection(patch_tokens), self.text_projection(text_tokens)
        return patches, words if self.category is None else words + self.category

    def fuse(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> tuple[Float[Tensor, "batch width height cols"], Float[Tensor, "batch names width"]]:
        """The decoder's feature map and the words that it is compared with: what the cosine head reads."""
        patches, words = self.project(patch_tokens, text_tokens)
        patches, words = self.mix(patches, words, names_mask=names_mask)
        return self.decoder(patches @ self.patch_matrix, grid=grid), words @ self.word_matrix

    def decoder_parameters(self) -> list[nn.Parameter]:
        """The visual decoder's."""
        return list(self.decoder.parameters())


class Fusioner(TokenModel):
    """The paper's model: one transformer over [patch tokens row by row, words], without positional embedding."""

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        self.transformer = Transformer(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            dropout=config.dropout,
        )

    def mix(
        self,
        patches: Float[Tensor, "batch patches width"],
        words: Float[Tensor, "batch names width"],
        *,
        names_mask: Bool[Tensor, "batch names"] | None,
    ) -> tuple[Float[Tensor, "batch patches width"], Float[Tensor, "batch names width"]]:
        """Both sides through one transformer; padding names are not read from."""
        count = patches.shape[1]
        tokens = torch.cat([patches, words], dim=1)
        mixed = self.transformer(tokens, words=words.shape[1], visible=_visible(patches, names_mask))
        return mixed[:, :count], mixed[:, count:]

    @torch.no_grad()
    def attention(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Each block's attention over [patches, words]: row ``patches + k`` is what word k reads."""
        patches, words = self.project(patch_tokens, text_tokens)
        return self.transformer.attention(torch.cat([patches, words], dim=1), visible=_visible(patches, names_mask))


def _visible(patches: Tensor, names_mask: Tensor | None) -> Tensor | None:
    if names_mask is None:
        return None
    return torch.cat([names_mask.new_ones(patches.shape[:2]), names_mask], dim=1)


class LateFusion(TokenModel):
    """Two stacks of ``late_depth`` blocks each: by default half of ``depth``, so the trainable total is Fusioner's.

    The paper does not publish its depth; the full depth on each side is ``late_depth = depth``.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        depth = config.late_depth or max(1, config.depth // 2)
        self.visual_transformer, self.text_transformer = (
            Transformer(
                width=config.width,
                depth=depth,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                dropout=config.dropout,
            )
            for _ in range(2)
        )

    def mix(
        self,
        patches: Float[Tensor, "batch patches width"],
        words: Float[Tensor, "batch names width"],
        *,
        names_mask: Bool[Tensor, "batch names"] | None,
    ) -> tuple[Float[Tensor, "batch patches width"], Float[Tensor, "batch names width"]]:
        """Each side through its own transformer; words read one another, as all of a side's tokens do."""
        patches = self.visual_transformer(patches, words=0)
        return patches, self.text_transformer(words, words=words.shape[1], visible=names_mask)
