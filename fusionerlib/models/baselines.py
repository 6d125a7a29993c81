"""Earlier methods as baselines: in all of them text tokens are used as they are, nothing is learned on their side.

Written from the papers and run on the same frozen tokens as the other models. All decide by a sigmoid for every name,
where the originals take the best of all names and have no background. So the results here measure the idea of a method,
not the authors' system.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models.base import FeatureMap, Logits, NamesMask, PatchTokens, Size, TextFeatures, TextTokens
from fusionerlib.models.cosine_head import CosineHeadModel
from fusionerlib.models.fast_decoder import FastDecoder, cosine_logits
from fusionerlib.models.fusioner import LAYER_NORM_EPS

SPATIAL_BLOCKS = 2


class FrozenTextModel(CosineHeadModel):
    """Image features in the space of the frozen text tokens; no name changes another's logit."""

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        learned = config.logit_bias and config.kind != "training_free"
        self.bias = nn.Parameter(torch.tensor([config.logit_bias])) if learned else None

    def image_features(self, patch_tokens: PatchTokens, *, grid: Size) -> FeatureMap:
        """A map with as many channels as the text tokens."""
        raise NotImplementedError

    def fuse(
        self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, grid: Size, names_mask: NamesMask | None = None
    ) -> tuple[FeatureMap, TextFeatures]:
        """The image features, and the text tokens unchanged."""
        self.check_widths(patch_tokens, text_tokens)
        return self.image_features(patch_tokens, grid=grid), text_tokens


class LSeg(FrozenTextModel):
    """LSeg's head (Li et al., ICLR 2022): pixels are trained to lie near the frozen text tokens.

    LayerNorm and Linear project patch tokens into the text space, a decoder like Fusioner's works there, and the
    cosines with the text tokens are divided by the temperature. ``SPATIAL_BLOCKS`` then smooth the logits of each name,
    x + conv(ReLU x) with one 3x3 kernel for all names; they start as the identity. LSeg itself reads several layers of
    an image encoder that it also trains.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        self.projection = nn.Sequential(
            nn.LayerNorm(visual_width, eps=LAYER_NORM_EPS), nn.Linear(visual_width, text_width)
        )
        inner = config.decoder_width or config.width
        self.decoder = FastDecoder(width=text_width, inner=inner, scales=config.decoder_scales)
        self.blocks = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(SPATIAL_BLOCKS))
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def image_features(self, patch_tokens: PatchTokens, *, grid: Size) -> FeatureMap:
        """The decoder's feature map."""
        features: Tensor = self.decoder(self.projection(patch_tokens), grid=grid)
        return features

    def logits(self, features: FeatureMap, text: TextFeatures, *, size: Size) -> Logits:
        """Cosine / temperature, smoothed; at ``size`` where the config upsamples features."""
        maps = rearrange(super().logits(features, text, size=size), "b k h w -> (b k) 1 h w")
        for block in self.blocks:
            maps = maps + block(F.relu(maps))
        return rearrange(maps, "(b k) 1 h w -> b k h w", k=text.shape[1])

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Those of the decoder."""
        return list(self.decoder.parameters())


class SPNet(FrozenTextModel):
    """SPNet's semantic projection (Xian et al., CVPR 2019): one Linear into the text space, then the inner product.

    Unit-length patch tokens are first multiplied by the square root of their width, which gives their channels the
    scale of a network's features; the projection learns faster.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        self.projection = nn.Linear(visual_width, text_width)

    def image_features(self, patch_tokens: PatchTokens, *, grid: Size) -> FeatureMap:
        """The projected patches."""
        projected = self.projection(patch_tokens * self.visual_width**0.5)
        return rearrange(projected, "b (h w) c -> b c h w", h=grid[0], w=grid[1])

    def logits(self, features: FeatureMap, text: TextFeatures, *, size: Size) -> Logits:
        """Inner products with the unit-length text tokens, at the resolution of the patch grid."""
        return torch.einsum("bchw,bkc->bkhw", features, F.normalize(text, dim=-1))


class TrainingFree(FrozenTextModel):
    """Cosine of patch and text token, without training (MaskCLIP: Zhou et al., ECCV 2022), for pairs in one space.

    Logits are (cosine - offset) / temperature, both constants of the config. The last ``text_width`` channels of a
    patch token are in the space of the text tokens. The model has no parameter: training changes nothing.
    """

    names_independent = True

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__(config, visual_width=visual_width, text_width=text_width)
        if visual_width < text_width:
            raise FusionerError(
                f"kind 'training_free': patch tokens of {visual_width} channels can't end in the {text_width} channels "
                "of the text tokens: choose a pair in one space (both halves of one CLIP, or the packaged pair with "
                "visual_tokens = 'conse'), or a kind that learns a projection, such as 'fusioner'"
            )

    def finest_grid(self, grid: Size) -> Size:
        """The patch grid."""
        return grid

    def image_features(self, patch_tokens: PatchTokens, *, grid: Size) -> FeatureMap:
        """The channels of the patch tokens that are in the text space."""
        return rearrange(patch_tokens[..., -self.text_width :], "b (h w) c -> b c h w", h=grid[0], w=grid[1])

    def logits(self, features: FeatureMap, text: TextFeatures, *, size: Size) -> Logits:
        """At the resolution of the patch grid. In training mode they require a gradient, so that ``backward`` runs."""
        logits = (cosine_logits(features, text, temperature=1.0) - self.config.offset) / self.config.temperature
        return logits.requires_grad_() if self.training and torch.is_grad_enabled() else logits
