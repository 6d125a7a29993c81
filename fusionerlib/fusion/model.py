"""What every segmentation model here shares: tokens in, logits out. Subclasses say how words and patches meet."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.fusion.blocks import LAYER_NORM_EPS
from fusionerlib.fusion.decoder import Decoder, cosine_logits, resize


class SegmentationModel(nn.Module):
    """Projections of both sides, a subclass's ``mix``, two final matrices, decoder and cosine head (paper, section 3).

    Trainable; never owns an encoder. The parameters are the paper's table with ``config`` in place of its numbers.
    """

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__()
        width = config.width
        self.config, self.visual_width, self.text_width = config, visual_width, text_width
        self.visual_projection = nn.Sequential(
            nn.LayerNorm(visual_width, eps=LAYER_NORM_EPS),
            nn.Linear(visual_width, width),
            nn.LayerNorm(width, eps=LAYER_NORM_EPS),
        )
        self.text_projection = nn.Sequential(nn.LayerNorm(text_width, eps=LAYER_NORM_EPS), nn.Linear(text_width, width))
        self.category = nn.Parameter(torch.randn(1, width))
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
        for side, tokens, width in (("patch", patch_tokens, self.visual_width), ("text", text_tokens, self.text_width)):
            if tokens.shape[-1] != width:
                raise FusionerError(
                    f"the {side} tokens are {tokens.shape[-1]} wide, this model was trained on {width}: "
                    "use the encoder pair named in the checkpoint's config.json"
                )
        return self.visual_projection(patch_tokens), self.text_projection(text_tokens) + self.category

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> Float[Tensor, "batch names height width"]:
        """Logits of every name at every pixel of ``size`` (height, width).

        grid: rows and columns of the patch tokens. names_mask: False for names that only pad the batch; the other
        names' logits do not depend on them, their own mean nothing.
        """
        features, words = self.fuse(patch_tokens, text_tokens, grid=grid, names_mask=names_mask)
        if self.config.upsample == "features":
            features = resize(features, size)
        logits = cosine_logits(features, words, temperature=self.config.temperature)
        if self.bias is not None:
            logits = logits + self.bias
        return logits if logits.shape[-2:] == size else resize(logits, size)

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

    def attention(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Each block's attention among [patches, words]; empty for a model whose sides do not attend to each other."""
        return []

    def trainable(self) -> dict[str, int]:
        """Number of trainable parameters: of the fusion (all but the decoder), the decoder, and both."""
        decoder = sum(parameter.numel() for parameter in self.decoder.parameters())
        total = sum(parameter.numel() for parameter in self.parameters())
        return {"fusion": total - decoder, "decoder": decoder, "total": total}
