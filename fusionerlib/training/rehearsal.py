"""Rehearsal: training on new images keeps what a checkpoint does with the names that it already had.

Distillation without the old images (Li and Hoiem, "Learning without Forgetting", ECCV 2016): the probabilities of the
checkpoint for its own names, on the new images, are soft targets of a second loss.
"""

from collections.abc import Collection

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fusionerlib.features.text import TextEmbeddingCache, name_tokens
from fusionerlib.models import build
from fusionerlib.training.start import Start

NAMES = 6
"""Old names in each step."""


def old_names(start: Start, vocabulary: Collection[str]) -> list[str]:
    """The names that the checkpoint was trained on and that are not in ``vocabulary``, sorted."""
    return sorted(set(start.checkpoint.trained_names) - set(vocabulary))


class Rehearsal:
    """The soft targets of the checkpoint ``start``, for those of its names that are not in ``vocabulary``.

    weight: of the second loss. seed: of the names of each step. There must be such a name (``old_names``).
    """

    def __init__(
        self,
        start: Start,
        *,
        vocabulary: Collection[str],
        text_cache: TextEmbeddingCache,
        weight: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.weight, self.seed, self.text_cache = weight, seed, text_cache
        self.names = old_names(start, vocabulary)
        text_cache.add(self.names)
        old = start.checkpoint.model
        # In training mode, as the model that learns from these targets: it gives the same logits. But no dropout.
        plain = start.checkpoint.run.fusion.model_copy(update={"dropout": 0.0})
        self.model = build(plain, visual_width=old.visual_width, text_width=old.text_width)
        self.model.load_weights(old.state_dict(), old.example_names)
        self.model.train().requires_grad_(False).to(device)

    def text_tokens(self, step: int) -> Float[Tensor, "old dim"]:
        """The text tokens of the old names of ``step``, the same for every image and in every process."""
        count = min(NAMES, len(self.names))
        chosen = np.random.default_rng((self.seed, step, 1)).choice(len(self.names), size=count, replace=False)
        return name_tokens(self.model, self.text_cache, [self.names[index] for index in chosen])

    @torch.no_grad()
    def probabilities(
        self,
        patches: Float[Tensor, "batch patches dim"],
        text: Float[Tensor, "batch old text_dim"],
        *,
        grid: tuple[int, int],
        size: tuple[int, int],
    ) -> Float[Tensor, "batch paths height width"]:
        """What the checkpoint says of each pixel and old name, 0-1, float32; twice for one with examples (``forward``
        of ``CostAggregation``)."""
        return self.model(patches, text, grid=grid, size=size).float().sigmoid()
