"""Models that end in a comparison of a feature map with words: one end for all of them."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionerlib.models.base import SegmentationModel
from fusionerlib.models.decoder import cosine_logits, resize


class CosineHeadModel(SegmentationModel):
    """Features and words in one space, and how like they are; a subclass says where both come from.

    bias: added to all logits, where a model has one.
    """

    bias: nn.Parameter | None

    def fuse(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> tuple[Float[Tensor, "batch width height cols"], Float[Tensor, "batch names width"]]:
        """The feature map and the words that it is compared with."""
        raise NotImplementedError

    def logits(
        self,
        features: Float[Tensor, "batch width height cols"],
        words: Float[Tensor, "batch names width"],
        *,
        size: tuple[int, int],
    ) -> Float[Tensor, "batch names newheight newcols"]:
        """Logits without the bias, at ``size`` or the features' own: cosine over temperature, at ``size`` where
        features are what is enlarged."""
        finer = size if self.config.upsample == "features" else None
        return cosine_logits(features, words, temperature=self.config.temperature, size=finer)

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
        names_mask: Bool[Tensor, "batch names"] | None = None,
    ) -> Float[Tensor, "batch names height width"]:
        """Logits as in ``SegmentationModel``."""
        features, words = self.fuse(patch_tokens, text_tokens, grid=grid, names_mask=names_mask)
        logits = self.logits(features, words, size=size)
        if self.bias is not None:
            logits = logits + self.bias
        return logits if logits.shape[-2:] == size else resize(logits, size)

    def similarity(
        self,
        patch_tokens: Float[Tensor, "batch patches visual"],
        text_tokens: Float[Tensor, "batch names text"],
        *,
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch names height width"]:
        """Cosine (-1 to 1) between each word and the features, at their resolution."""
        features, words = self.fuse(patch_tokens, text_tokens, grid=grid)
        return cosine_logits(features, words, temperature=1.0)
