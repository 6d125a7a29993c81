"""What every segmentation model here is: frozen patch and text tokens in, logits out."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError

NAMES = 64
"""Names asked at once of a model whose names are independent, so that memory does not grow with the vocabulary."""


class SegmentationModel(nn.Module):
    """The trainable part; never owns an encoder. visual_width, text_width: channels of the frozen tokens.

    names_independent: no name changes another's logit, and logits are resized only after the last layer.
    """

    names_independent: ClassVar[bool] = False

    def __init__(self, config: FusionConfig, *, visual_width: int, text_width: int) -> None:
        super().__init__()
        self.config, self.visual_width, self.text_width = config, visual_width, text_width

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
        raise NotImplementedError

    def similarity(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch names height width"]:
        """Cosine (-1 to 1) between words and pixels, where the model compares them."""
        raise NotImplementedError

    def attention(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Each block's attention among [patches, words]; empty for a model whose sides do not attend to each other."""
        return []

    def parts(self, count: int) -> list[slice]:
        """Which of ``count`` names to ask at once: all of them, or ``NAMES`` at a time where names are independent.

        Parts are equally long, the last one begins early for it: how a product of matrices rounds hangs on its shape.
        """
        if not self.names_independent or count <= NAMES:
            return [slice(0, count)]
        starts = (min(start, count - NAMES) for start in range(0, count, NAMES))
        return [slice(start, start + NAMES) for start in starts]

    def coarsest(self, grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """The smallest size (height, width) that logits may be asked at without losing anything for ``size``."""
        if not self.names_independent:
            return size
        scale = self.config.decoder_scales[-1] if self.config.decoder_scales else 1
        return grid[0] * scale, grid[1] * scale

    def follow(self, patch_tokens: Float[Tensor, "batch patches visual"]) -> None:
        """Called with every whole batch before it trains: running statistics, where a model has some. No gradient."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a model without any."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def check_widths(self, patch_tokens: Tensor, text_tokens: Tensor) -> None:
        """Raises FusionerError for tokens of another width than the model's."""
        for side, tokens, width in (("patch", patch_tokens, self.visual_width), ("text", text_tokens, self.text_width)):
            if tokens.shape[-1] != width:
                raise FusionerError(
                    f"the {side} tokens are {tokens.shape[-1]} wide, this model was trained on {width}: "
                    "use the encoder pair named in the checkpoint's config.json"
                )

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Those of a visual decoder, which the paper trains apart; none by default."""
        return []

    def undecayed(self) -> list[nn.Parameter]:
        """The parameters without weight decay: biases and norms."""
        return [parameter for parameter in self.parameters() if parameter.ndim < 2]

    def trainable(self) -> dict[str, int]:
        """Number of trainable parameters: of the fusion (all but the decoder), the decoder, and both."""
        decoder = sum(parameter.numel() for parameter in self.decoder_parameters())
        total = sum(parameter.numel() for parameter in self.parameters())
        return {"fusion": total - decoder, "decoder": decoder, "total": total}
