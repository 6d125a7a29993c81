"""The models of the paper: words and patches as tokens of one width. Subclasses say where the two meet."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.fusion.blocks import LAYER_NORM_EPS
from fusionerlib.fusion.comparing import ComparingModel
from fusionerlib.fusion.decoder import Decoder


class TokenModel(ComparingModel):
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

    def undecayed(self) -> list[nn.Parameter]:
        """Biases, norms, and the shared category vector, which is a bias by what it does."""
        return [*super().undecayed(), *([] if self.category is None else [self.category])]
