"""Models that end in the cosine between a feature map and text features."""

from torch import Tensor, nn

from fusionerlib.models.base import (
    FeatureMap,
    Logits,
    NamesMask,
    PatchTokens,
    SegmentationModel,
    Size,
    TextFeatures,
    TextTokens,
)
from fusionerlib.models.decoder import resize
from fusionerlib.models.fast_decoder import cosine_logits


class CosineHeadModel(SegmentationModel):
    """Image features and text features in one space, compared by cosine; a subclass computes both in ``fuse``.

    bias: added to all logits, None for models without.
    """

    bias: nn.Parameter | None

    def fuse(
        self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, grid: Size, names_mask: NamesMask | None = None
    ) -> tuple[FeatureMap, TextFeatures]:
        """The feature map and one text feature a name, of equal width."""
        raise NotImplementedError

    def logits(self, features: FeatureMap, text: TextFeatures, *, size: Size) -> Logits:
        """Logits without the bias: cosine / temperature.

        At the resolution of ``features`` where the config upsamples logits, else at ``size``.
        """
        target = None if self.config.upsample == "logits" else size
        return cosine_logits(features, text, temperature=self.config.temperature, size=target)

    def forward(
        self,
        patch_tokens: PatchTokens,
        text_tokens: TextTokens,
        *,
        grid: Size,
        size: Size,
        names_mask: NamesMask | None = None,
    ) -> Logits:
        """Logits as in ``SegmentationModel``."""
        features, text = self.fuse(patch_tokens, text_tokens, grid=grid, names_mask=names_mask)
        logits: Tensor = self.logits(features, text, size=size)
        if self.bias is not None:
            logits = logits + self.bias
        return logits if logits.shape[-2:] == size else resize(logits, size)

    def similarity(self, patch_tokens: PatchTokens, text_tokens: TextTokens, *, grid: Size) -> Logits:
        """Cosine (-1 to 1) between each text feature and the feature map, at its resolution."""
        features, text = self.fuse(patch_tokens, text_tokens, grid=grid)
        return cosine_logits(features, text, temperature=1.0)
