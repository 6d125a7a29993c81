"""Frozen text tokens, each name encoded once."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fusionerlib.encoders.base import TextEncoder


class WordTable:
    """Text tokens of names on demand: a name meets the encoder only the first time it is asked for."""

    def __init__(self, *, encoder: TextEncoder, templates: Sequence[str]) -> None:
        self.encoder, self.templates = encoder, tuple(templates)
        self._rows: dict[str, Tensor] = {}

    def add(self, names: Iterable[str]) -> None:
        """Encode those of ``names`` that are new, in one go."""
        new = [name for name in dict.fromkeys(names) if name not in self._rows]
        if new:
            self._rows.update(zip(new, self.encoder(new, self.templates), strict=True))

    def tokens(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The tokens of ``names``, in their order."""
        self.add(names)
        return torch.stack([self._rows[name] for name in names])

    def padded(
        self, lists: Sequence[Sequence[str]]
    ) -> tuple[Float[Tensor, "batch names dim"], Bool[Tensor, "batch names"]]:
        """Tokens of several lists as one batch, and a mask that is False where a shorter list was padded with 0."""
        self.add(name for names in lists for name in names)
        most = max(len(names) for names in lists)
        width = self.encoder.width
        tokens, mask = torch.zeros(len(lists), most, width), torch.zeros(len(lists), most, dtype=torch.bool)
        for row, names in enumerate(lists):
            tokens[row, : len(names)] = self.tokens(names)
            mask[row, : len(names)] = True
        return tokens, mask
