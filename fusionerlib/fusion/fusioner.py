"""Fusioner: patches and words attend to each other from the first block on (early fusion)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusionerlib.config import FusionConfig
from fusionerlib.fusion.blocks import Transformer
from fusionerlib.fusion.tokens import TokenModel


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
