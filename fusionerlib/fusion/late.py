"""Late fusion, the paper's baseline: each side has its own transformer; they meet only in the final product."""

from jaxtyping import Bool, Float
from torch import Tensor

from fusionerlib.config import FusionConfig
from fusionerlib.fusion.blocks import Transformer
from fusionerlib.fusion.tokens import TokenModel


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
