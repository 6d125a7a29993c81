"""Fusioner, the paper's model, and late fusion, its baseline: transformers over patch and text tokens of one width.

The transformer blocks are written out so that their attention can be read.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.models.base import Attention, FeatureMap, NamesMask, PatchTokens, Size, TextFeatures, TextTokens
from fusionerlib.models.cosine_head import CosineHeadModel
from fusionerlib.models.fast_decoder import FastDecoder

LAYER_NORM_EPS = 1e-5
"""torch's default, as in the paper's code; timm's 1e-6 shifts logits by 5e-3."""

Tokens = Float[Tensor, "batch tokens width"]
Visible = Bool[Tensor, "batch tokens"]
"""False for tokens that no token may attend to."""
Patches = Float[Tensor, "batch patches width"]
Names = Float[Tensor, "batch names width"]


class SelfAttention(nn.Module):
    """Multi-head self-attention: one qkv Linear with bias (q, k, v, each split into heads), scale head_dim ** -0.5."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tokens, *, visible: Visible | None) -> Tokens:
        """Every token attends to the tokens that are ``visible``, to all of them if None."""
        query, key, value = self._split(tokens)
        mask = None if visible is None else visible[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(mixed, "b heads n d -> b n (heads d)"))

    def weights(self, tokens: Tokens, *, visible: Visible | None) -> Attention:
        """The attention weights that ``forward`` uses."""
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
    """Pre-norm transformer block: x + Attn(LN x), then x + MLP(LN x) with the exact (erf) GELU.

    dropout: on both residual branches, for text tokens only. A data set has few names and many patches, so it is the
    names that the model overfits to; leaving the patches out saves a sixth of the time.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = SelfAttention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.dropout = dropout

    def forward(self, tokens: Tokens, *, names: int, visible: Visible | None = None) -> Tokens:
        """The tokens after one block. names: how many of them, at the end, are text tokens."""
        tokens = tokens + self._dropped(self.attention(self.norm1(tokens), visible=visible), names)
        return tokens + self._dropped(self.mlp(self.norm2(tokens)), names)

    def _dropped(self, added: Tensor, names: int) -> Tensor:
        if not (self.training and self.dropout and names):
            return added
        patches, text = added.split([added.shape[1] - names, names], dim=1)
        return torch.cat([patches, F.dropout(text, self.dropout)], dim=1)


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm over all tokens."""

    def __init__(self, *, width: int, depth: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            FusionBlock(width=width, heads=heads, mlp_ratio=mlp_ratio, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tokens, *, names: int, visible: Visible | None = None) -> Tokens:
        """The tokens after all blocks. names: how many of them, at the end, are text tokens."""
        for block in self.blocks:
            tokens = block(tokens, names=names, visible=visible)
        normed: Tensor = self.norm(tokens)
        return normed

    @torch.no_grad()
    def attention(self, tokens: Tokens, *, visible: Visible | None = None) -> list[Attention]:
        """The attention weights of each block, first block first."""
        layers = []
        for block in self.blocks:
            assert isinstance(block, FusionBlock)
            layers.append(block.attention.weights(block.norm1(tokens), visible=visible))
            tokens = block(tokens, names=0, visible=visible)
        return layers


class TokenModel(CosineHeadModel):
    """What both models share: projections of both sides, ``mix``, two final matrices, decoder, cosine head.

    Paper, section 3; the layers are its table with ``config`` in place of the numbers.
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
        # Most pixels belong to no name: a bias that starts low saves the steps in which the model would learn that.
        self.bias = nn.Parameter(torch.tensor([config.logit_bias])) if config.logit_bias else None
        self.decoder = FastDecoder(width=width, inner=config.decoder_width or width, scales=config.decoder_scales)

    def mix(self, patches: Patches, names: Names, *, names_mask: NamesMask | None) -> tuple[Patches, Names]:
        """The projected tokens of both sides after the transformer; where a subclass says how they meet."""
        raise NotImplementedError

    def project(self, patch_tokens: PatchTokens, text_tokens: TextTokens) -> tuple[Patches, Names]:
        """Both sides in the model's width; the vector ``category`` is added to the text tokens."""
        self.check_widths(patch_tokens, text_tokens)
        patches, names = self.visual_projection(patch_tokens), self.text_projection(text_tokens)
        return patches, names if self.category is None else names + self.category

    def fuse(
        self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, grid: Size, names_mask: NamesMask | None = None
    ) -> tuple[FeatureMap, TextFeatures]:
        """The decoder's feature map, and the text features that it is compared with."""
        patches, names = self.project(patch_tokens, text_tokens)
        patches, names = self.mix(patches, names, names_mask=names_mask)
        return self.decoder(patches @ self.patch_matrix, grid=grid), names @ self.word_matrix

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Those of the visual decoder."""
        return list(self.decoder.parameters())

    def undecayed(self, *, category: bool = True) -> list[nn.Parameter]:
        """Biases, norms and, where ``category``, the category vector."""
        return [*super().undecayed(), *([self.category] if category and self.category is not None else [])]


class Fusioner(TokenModel):
    """Early fusion, the paper's model: one transformer over [patches row by row, names], no positional embedding."""

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        self.transformer = _transformer(config, depth=config.depth)

    def mix(self, patches: Patches, names: Names, *, names_mask: NamesMask | None) -> tuple[Patches, Names]:
        """All tokens through one transformer; no token attends to padding names."""
        count = patches.shape[1]
        tokens = torch.cat([patches, names], dim=1)
        mixed = self.transformer(tokens, names=names.shape[1], visible=_visible(patches, names_mask))
        return mixed[:, :count], mixed[:, count:]

    @torch.no_grad()
    def attention(
        self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, names_mask: NamesMask | None = None
    ) -> list[Attention]:
        """Attention of each block over [patches, names]: row ``patches + k`` is what name k reads."""
        patches, names = self.project(patch_tokens, text_tokens)
        return self.transformer.attention(torch.cat([patches, names], dim=1), visible=_visible(patches, names_mask))


class LateFusion(TokenModel):
    """Late fusion, the paper's baseline: a transformer for each side; they meet only in the cosine head.

    Each side has ``late_depth`` blocks, by default half of ``depth``, so that the model is as large as ``Fusioner``.
    The paper does not publish the depth; ``late_depth = depth`` gives each side the full one.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        depth = config.late_depth or max(1, config.depth // 2)
        self.visual_transformer = _transformer(config, depth=depth)
        self.text_transformer = _transformer(config, depth=depth)

    def mix(self, patches: Patches, names: Names, *, names_mask: NamesMask | None) -> tuple[Patches, Names]:
        """Each side through its own transformer; names attend to the other names, patches to patches."""
        patches = self.visual_transformer(patches, names=0)
        return patches, self.text_transformer(names, names=names.shape[1], visible=names_mask)


def _transformer(config: FusionConfig, *, depth: int) -> Transformer:
    return Transformer(
        width=config.width,
        depth=depth,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        dropout=config.dropout,
    )


def _visible(patches: Tensor, names_mask: Tensor | None) -> Tensor | None:
    if names_mask is None:
        return None
    return torch.cat([names_mask.new_ones(patches.shape[:2]), names_mask], dim=1)
