"""Frozen text tokens, each name encoded once."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib.encoders.base import TextEncoder


class WordTable:
    """Text tokens of names on demand: a name meets the encoder only the first time it is asked for.

    folder: where tokens are kept between processes, a file for every encoder and set of templates; None keeps none.
    """

    def __init__(self, *, encoder: TextEncoder, templates: Sequence[str], folder: Path | None = None) -> None:
        self.encoder, self.templates = encoder, tuple(templates)
        identity = hashlib.sha256(repr((encoder.fingerprint, self.templates)).encode()).hexdigest()
        self.file = None if folder is None else folder / f"words-{encoder.name}-{identity[:16]}.safetensors"
        self._rows = self._kept()

    def add(self, names: Iterable[str]) -> None:
        """Encode those of ``names`` that are new, in one go."""
        new = [name for name in dict.fromkeys(names) if name not in self._rows]
        if new:
            self._rows.update(zip(new, self.encoder(new, self.templates), strict=True))
            self._keep()

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

    def _kept(self) -> dict[str, Tensor]:
        if self.file is None or not self.file.is_file():
            return {}
        try:
            with safe_open(self.file, framework="pt") as kept:
                return dict(zip(json.loads(kept.metadata()["names"]), kept.get_tensor("tokens"), strict=True))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            return {}  # nothing is lost: the names are encoded again and the file is written anew

    def _keep(self) -> None:
        if self.file is None:
            return
        # Another process may have added names meanwhile; whoever writes last keeps both.
        rows = {**self._kept(), **self._rows}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(f".{os.getpid()}.part")
        tokens = torch.stack(list(rows.values()))
        save_file({"tokens": tokens}, part, metadata={"names": json.dumps(list(rows))})
        part.replace(self.file)
