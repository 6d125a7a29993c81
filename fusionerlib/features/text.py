"""Frozen text tokens, each name encoded once.

The pair of frozen encoders that a config names.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib.config import PairConfig
from fusionerlib.encoders.base import TextEncoder, VisualEncoder
from fusionerlib.encoders.prompts import synonyms, templates
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.files import plain_name

NORMALISATIONS: dict[str, dict[str, tuple[float, float, float]]] = {
    "encoder": {},
    "pascal": {"mean": (0.4554, 0.4298, 0.3955), "std": (0.1181, 0.1189, 0.1338)},
    "coco": {"mean": (0.4650, 0.4357, 0.3973), "std": (0.1152, 0.1153, 0.1352)},
}
"""Mean and standard deviation of red, green and blue (0-1) by ``PairConfig.normalisation``: the paper's own numbers."""


class TextEmbeddingCache:
    """Text tokens of names on demand: a name meets the encoder only the first time it is asked for.

    templates: sentences with a ``{}`` for the name; a name's token is the average over them.
    synonyms: other words for a name; its token is the unit-length average over its own and theirs.
    folder: where tokens are kept between processes, a file for every encoder, set of templates and synonyms; None
        keeps none.
    limit: most names held at once; the others are encoded again when they are next asked for.
    """

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        templates: Sequence[str],
        synonyms: Mapping[str, Sequence[str]] | None = None,
        folder: Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.encoder, self.templates, self.limit = encoder, tuple(templates), limit
        self.synonyms = {name: tuple(others) for name, others in (synonyms or {}).items()}
        recipe = (encoder.fingerprint, self.templates, *sorted(self.synonyms.items()))
        identity = hashlib.sha256(repr(recipe).encode()).hexdigest()
        self.file = None if folder is None else folder / f"words-{plain_name(encoder.name)}-{identity[:16]}.safetensors"
        self._rows = self._kept()

    def add(self, names: Iterable[str]) -> None:
        """Encode those of ``names`` that are new, in one go."""
        new = [name for name in dict.fromkeys(names) if name not in self._rows]
        if new:
            self._rows.update(zip(new, self._encoded(new), strict=True))
            self._keep()

    def tokens(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The tokens of ``names``, in their order."""
        if self.limit is not None and len(self._rows.keys() | set(names)) > self.limit:
            self._rows = {name: self._rows[name] for name in names if name in self._rows}
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

    def _encoded(self, names: Sequence[str]) -> Tensor:
        words = {name: (name, *self.synonyms.get(name, ())) for name in names}
        flat = list(dict.fromkeys(word for group in words.values() for word in group))
        rows = dict(zip(flat, self.encoder(flat, self.templates).float().cpu(), strict=True))
        if flat == list(names):
            return torch.stack(list(rows.values()))
        means = [torch.stack([rows[word] for word in group]).mean(0) for group in words.values()]
        return F.normalize(torch.stack(means), dim=-1)

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


def visual_of(pair: PairConfig, *, device: str = "cpu") -> VisualEncoder:
    """The frozen visual encoder of ``pair``."""
    return load_visual(
        pair.visual,
        device=device,
        weights=pair.visual_weights,
        tokens=pair.visual_tokens,
        precision=pair.precision,
        compiled=pair.compiled,
        **NORMALISATIONS[pair.normalisation],
    )


def text_cache_of(
    pair: PairConfig, *, folder: Path | None = None, limit: int | None = None, device: str = "cpu"
) -> TextEmbeddingCache:
    """The frozen text encoder of ``pair``, its templates and synonyms. folder, limit: see ``TextEmbeddingCache``."""
    encoder = load_text(
        pair.text, device=device, weights=pair.text_weights, tokens=pair.text_tokens, precision=pair.precision
    )
    return TextEmbeddingCache(
        encoder=encoder,
        templates=templates(pair.templates),
        synonyms=synonyms(pair.synonyms),
        folder=folder,
        limit=limit,
    )
