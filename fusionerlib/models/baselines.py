"""Earlier ways to tie words to pixels, for comparison: in each of them the words have no learned part.

Written from what the papers say, on the same frozen tokens as the other models, and with one decision for all: a
sigmoid for every name, where the originals take the best of all names and have no background. So their figures here
are of the idea, not of the authors' systems.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models.cosine_head import CosineHeadModel
from fusionerlib.models.decoder import Decoder, cosine_logits
from fusionerlib.models.fusioner import LAYER_NORM_EPS

SPATIAL_BLOCKS = 2


class FrozenWords(CosineHeadModel):
    """Features in the space of the frozen words, compared with them as they are; no name changes another's logit."""

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        learned = config.logit_bias and config.kind != "similarity"
        self.bias = nn.Parameter(torch.tensor([config.logit_bias])) if learned else None

    def in_words(
        self, patch_tokens: Float[Tensor, "batch patches visual"], *, grid: tuple[int, int]
    ) -> Float[Tensor, "batch text height width"]:
        """Features in the space of the words, as a map."""
        raise NotImplementedError

    def fuse(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> tuple[Float[Tensor, "batch text height cols"], Float[Tensor, "batch names text"]]:
        """Features, and the words as they are."""
        self.check_widths(patch_tokens, text_tokens)
        return self.in_words(patch_tokens, grid=grid), text_tokens


class LSeg(FrozenWords):
    """LSeg's head (Li et al., ICLR 2022): pixels are trained to lie near the frozen words.

    LayerNorm and a Linear take the patch tokens into the words' space, a decoder of Fusioner's kind works there, and
    the cosine with the words is divided by the temperature. ``SPATIAL_BLOCKS`` then smooth each name's map, x +
    conv(ReLU x) with one 3x3 kernel that all names share; they start as no change. LSeg itself reads several layers of
    a tower that it trains too.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        self.projection = nn.Sequential(
            nn.LayerNorm(visual_width, eps=LAYER_NORM_EPS), nn.Linear(visual_width, text_width)
        )
        inner = config.decoder_width or config.width
        self.decoder = Decoder(width=text_width, inner=inner, scales=config.decoder_scales)
        self.blocks = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(SPATIAL_BLOCKS))
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def in_words(
        self, patch_tokens: Float[Tensor, "batch patches visual"], *, grid: tuple[int, int]
    ) -> Float[Tensor, "batch text height width"]:
        """The decoder's feature map."""
        features: Tensor = self.decoder(self.projection(patch_tokens), grid=grid)
        return features

    def logits(
        self,
        features: Float[Tensor, "batch text height width"],
        words: Float[Tensor, "batch names text"],
        *,
        size: tuple[int, int],
    ) -> Float[Tensor, "batch names newheight newwidth"]:
        """Cosine over temperature, smoothed; at ``size`` where features are what is enlarged."""
        maps = rearrange(super().logits(features, words, size=size), "b k h w -> (b k) 1 h w")
        for block in self.blocks:
            maps = maps + block(F.relu(maps))
        return rearrange(maps, "(b k) 1 h w -> b k h w", k=words.shape[1])

    def decoder_parameters(self) -> list[nn.Parameter]:
        """The decoder's."""
        return list(self.decoder.parameters())


class SPNet(FrozenWords):
    """SPNet's semantic projection (Xian et al., CVPR 2019): one Linear into the words' space, and the plain product.

    Tokens of unit length are multiplied by the root of their width first: their channels are then as large as a
    network's features, and the projection learns as fast.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        self.projection = nn.Linear(visual_width, text_width)

    def in_words(
        self, patch_tokens: Float[Tensor, "batch patches visual"], *, grid: tuple[int, int]
    ) -> Float[Tensor, "batch text height width"]:
        """The projected patches."""
        projected = self.projection(patch_tokens * self.visual_width**0.5)
        return rearrange(projected, "b (h w) c -> b c h w", h=grid[0], w=grid[1])

    def logits(
        self,
        features: Float[Tensor, "batch text height width"],
        words: Float[Tensor, "batch names text"],
        *,
        size: tuple[int, int],
    ) -> Float[Tensor, "batch names newheight newwidth"]:
        """Products with the words, which are brought to unit length, at the token grid."""
        return torch.einsum("bchw,bkc->bkhw", features, F.normalize(words, dim=-1))


class Similarity(FrozenWords):
    """Cosine of word and patch, without training (MaskCLIP: Zhou et al., ECCV 2022), for pairs in one space.

    Logits are (cosine - offset) / temperature, both fixed by the config. The last ``text_width`` channels of a patch
    token are in the space of the words. There is no parameter: training changes nothing.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        if visual_width < text_width:
            raise FusionerError(
                f"kind 'similarity': patch tokens of {visual_width} channels can't hold words of {text_width}: choose "
                "a pair in one space (both halves of one CLIP, or the packaged pair with visual_tokens = 'conse'), or "
                "a kind that learns to tie them, such as 'fusioner'"
            )

    def in_words(
        self, patch_tokens: Float[Tensor, "batch patches visual"], *, grid: tuple[int, int]
    ) -> Float[Tensor, "batch text height width"]:
        """The patches' own channels in the words' space."""
        return rearrange(patch_tokens[..., -self.text_width :], "b (h w) c -> b c h w", h=grid[0], w=grid[1])

    def logits(
        self,
        features: Float[Tensor, "batch text height width"],
        words: Float[Tensor, "batch names text"],
        *,
        size: tuple[int, int],
    ) -> Float[Tensor, "batch names newheight newwidth"]:
        """At the token grid. While training they are a leaf of their own, so that a loop that trains runs through."""
        logits = (cosine_logits(features, words, temperature=1.0) - self.config.offset) / self.config.temperature
        return logits.requires_grad_() if self.training and torch.is_grad_enabled() else logits
