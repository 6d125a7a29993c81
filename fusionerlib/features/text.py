"""The encoders of a run's pair, and a cache of text tokens: each name is encoded only once."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import xxhash
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib.checkpoints import is_finite
from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.datasets.names import canonical, identifier
from fusionerlib.devices import has_native_bf16
from fusionerlib.encoders.affinity import AffinityEncoder
from fusionerlib.encoders.base import TextEncoder, VisualEncoder
from fusionerlib.encoders.prompts import EVERYDAY, synonyms, templates
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.files import plain_name, replacing
from fusionerlib.models.base import SegmentationModel
from fusionerlib.name_forms import Everyday, everyday, form

NORMALISATIONS: dict[str, dict[str, tuple[float, float, float]]] = {
    "encoder": {},
    "pascal": {"mean": (0.4554, 0.4298, 0.3955), "std": (0.1181, 0.1189, 0.1338)},
    "coco": {"mean": (0.4650, 0.4357, 0.3973), "std": (0.1152, 0.1153, 0.1352)},
}
"""Mean and standard deviation of red, green and blue (0-1) by ``PairConfig.normalisation``: the paper's own numbers."""

Spelling = Literal["words", "identifiers"]
OWN_SHARE = 0.05
"""Weight of a name's own vector where the hand-written table says which other name it is asked as."""


def in_precision_of(run: RunConfig, device: str) -> RunConfig:
    """``run`` with every precision "auto" replaced by the one that suits ``device`` (``devices.has_native_bf16``)."""
    if "auto" not in (run.pair.precision, run.training.mixed_precision):
        return run
    mixed = run.training.mixed_precision
    if mixed == "auto":
        mixed = "bf16" if has_native_bf16(device) else "no"
    training = run.training.model_copy(update={"mixed_precision": mixed})
    return run.model_copy(update={"pair": _pair_on(run.pair, device), "training": training})


def _pair_on(pair: PairConfig, device: str) -> PairConfig:
    if pair.precision != "auto":
        return pair
    return pair.model_copy(update={"precision": "bfloat16" if has_native_bf16(device) else "float32"})


def visual_of(pair: PairConfig, *, device: str = "cpu") -> VisualEncoder:
    """The frozen visual encoder of ``pair``, with a second one that lends its affinities where it names one."""
    precision = _pair_on(pair, device).precision
    assert precision != "auto"
    shared: Any = {"device": device, "precision": precision, "compiled": pair.compiled}
    shared |= NORMALISATIONS[pair.normalisation]
    visual = load_visual(pair.visual, weights=pair.visual_weights, tokens=pair.visual_tokens, **shared)
    if not pair.affinity:
        return visual
    return AffinityEncoder(visual, load_visual(pair.affinity, weights=pair.affinity_weights, **shared))


def text_cache_of(
    pair: PairConfig,
    *,
    names: Spelling = "words",
    folder: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> "TextEmbeddingCache":
    """A cache over the frozen text encoder of ``pair``, with its templates and synonyms.

    names: ``DataConfig.names``. folder, limit: as in ``TextEmbeddingCache``.
    """
    precision = _pair_on(pair, device).precision
    assert precision != "auto"
    encoder = load_text(
        pair.text, device=device, weights=pair.text_weights, tokens=pair.text_tokens, precision=precision
    )
    return TextEmbeddingCache(
        encoder=encoder,
        templates=templates(pair.templates),
        synonyms=synonyms(pair.synonyms),
        table=everyday() if pair.synonyms == EVERYDAY else None,
        names=names,
        folder=folder,
        limit=limit,
    )


class TextEmbeddingCache:
    """Text tokens of names on demand. A name is passed to the encoder only the first time it is asked for.

    templates: sentences with a ``{}`` for the name; the token of a name is its mean over them.
    synonyms: other words for a name; its token is the unit-length mean over its own and theirs.
    table: the hand-written table, whose ``instead`` and ``alike`` are applied to words.
    names: what the encoder is given for a name. "words" is its form (``form``). "identifiers" is the name untouched, or
        the spelling of VOC and COCO ("diningtable" for "dining table") where it is one of their classes.
    folder: where tokens are kept for other processes, in one file for each encoder, set of templates, synonyms and
        spelling; None keeps none.
    limit: most names held in memory; beyond it they are encoded again when they are asked for again.
    """

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        templates: Sequence[str],
        synonyms: Mapping[str, Sequence[str]] | None = None,
        table: Everyday | None = None,
        names: Spelling = "words",
        folder: Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.encoder, self.templates, self.spelling, self.limit = encoder, tuple(templates), names, limit
        self.table = table if names == "words" else None
        self.synonyms = {self.form(name): tuple(others) for name, others in (synonyms or {}).items()}
        parts: tuple[object, ...] = (encoder.fingerprint, self.templates, *sorted(self.synonyms.items()))
        parts += () if names == "words" else (names,)
        parts += () if self.table is None else (*sorted(self.table.instead.items()), *sorted(self.table.alike.items()))
        identity = hashlib.sha256(repr(parts).encode()).hexdigest()
        self.file = None if folder is None else folder / f"words-{plain_name(encoder.name)}-{identity[:16]}.safetensors"
        self._tokens = self._stored()

    def form(self, name: str) -> str:
        """What ``name`` is looked up and encoded as: names with one form have one token.

        A name that the encoder holds as it is written (a table of vectors) stays, and so do identifiers.
        """
        held = getattr(self.encoder, "holds", None)
        if self.spelling == "identifiers" or (held is not None and held(name)):
            return name
        found = form(name, cased=getattr(self.encoder, "cased", False))
        return found if held is None or held(found) else name

    def example_name(self, name: str, known: Collection[str]) -> str:
        """The name in ``known`` that ``name`` means: its form, the category that it is a name of, or its synonym.

        The form where none of them is there.
        """
        found = self.form(name)
        others = (found, canonical(found), (self.table.alike if self.table else {}).get(found, found))
        return next((other for other in others if other in known), found)

    def add(self, names: Iterable[str]) -> None:
        """Encode those of ``names`` whose forms are new, in one batch."""
        new = [form for form in dict.fromkeys(map(self.form, names)) if form not in self._tokens]
        if new:
            self._tokens.update(zip(new, self._encoded(new), strict=True))
            self._store()

    def tokens(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        """The tokens of ``names``, in their order."""
        forms = [self.form(name) for name in names]
        if self.limit is not None and len(self._tokens.keys() | set(forms)) > self.limit:
            self._tokens = {form: self._tokens[form] for form in forms if form in self._tokens}
        self.add(names)
        return torch.stack([self._tokens[form] for form in forms])

    def padded(
        self, lists: Sequence[Sequence[str]]
    ) -> tuple[Float[Tensor, "batch names dim"], Bool[Tensor, "batch names"]]:
        """Tokens of several lists as one batch, padded with zeros, and a mask that is False for the padding."""
        self.add(name for names in lists for name in names)
        most = max(len(names) for names in lists)
        width = self.encoder.width
        tokens, mask = torch.zeros(len(lists), most, width), torch.zeros(len(lists), most, dtype=torch.bool)
        for row, names in enumerate(lists):
            tokens[row, : len(names)] = self.tokens(names)
            mask[row, : len(names)] = True
        return tokens, mask

    def _encoded(self, forms: Sequence[str]) -> Tensor:
        """The token of each form: its own words' mean, or that of the form that the table asks it as, mixed with it."""
        asked_as = self.table.alike if self.table else {}
        groups = {one: self._words(one) for form in forms for one in {form, asked_as.get(form, form)}}
        flat = list(dict.fromkeys(word for group in groups.values() for word in group))
        tokens = dict(zip(flat, self.encoder(flat, self.templates).float().cpu(), strict=True))
        own = {one: _mean([tokens[word] for word in group]) for one, group in groups.items()}
        return torch.stack(
            [own[form] if form not in asked_as else self._mixed(own[form], own[asked_as[form]]) for form in forms]
        )

    def _mixed(self, own: Tensor, other: Tensor) -> Tensor:
        """The token of a name that is asked as another one, from the tokens of both."""
        if hasattr(self.encoder, "vocabulary"):
            # Distributions: at unit length a flat one would have ten times the mass of a peaked one.
            own, other = own / own.sum(), other / other.sum()
        return F.normalize(OWN_SHARE * own + (1 - OWN_SHARE) * other, dim=-1)

    def _words(self, form: str) -> tuple[str, ...]:
        """The words whose vectors make up the token of ``form``."""
        if self.table and form in self.table.instead:
            return self.table.instead[form]
        return (self._spelled(form), *self.synonyms.get(form, ()))

    def _spelled(self, name: str) -> str:
        return identifier(name) if self.spelling == "identifiers" else name

    def _stored(self) -> dict[str, Tensor]:
        if self.file is None or not self.file.is_file():
            return {}
        try:
            with safe_open(self.file, framework="pt") as stored:
                names, tokens = stored.metadata()["names"], stored.get_tensor("tokens")
                if stored.metadata()["digest"] != _digest(names, tokens):
                    return {}
                if tokens.shape[1:] != (self.encoder.width,) or not is_finite(tokens):
                    return {}
                return dict(zip(json.loads(names), tokens, strict=True))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError):
            return {}  # a damaged file costs time only: the names are encoded again and the file is replaced

    def _store(self) -> None:
        if self.file is None:
            return
        # Another process may have added names since they were read.
        tokens = {**self._stored(), **self._tokens}
        names, table = json.dumps(list(tokens)), torch.stack(list(tokens.values()))
        with replacing(self.file) as part:
            save_file({"tokens": table}, part, metadata={"names": names, "digest": _digest(names, table)})


def name_tokens(
    model: SegmentationModel, cache: TextEmbeddingCache, names: Sequence[str]
) -> Float[Tensor, "names channels"]:
    """What ``model`` reads of ``names``: their text tokens, and what it knows of them by examples if it has some."""
    known = frozenset(model.example_names)
    return model.with_examples(cache.tokens(names), [cache.example_name(name, known) for name in names])


def padded_name_tokens(
    model: SegmentationModel, cache: TextEmbeddingCache, lists: Sequence[Sequence[str]]
) -> tuple[Float[Tensor, "batch names channels"], Bool[Tensor, "batch names"]]:
    """``name_tokens`` of several lists as one batch, padded with zeros, and a mask that is False for the padding."""
    cache.add(name for names in lists for name in names)
    rows = [name_tokens(model, cache, names) for names in lists]
    most = max(map(len, rows))
    mask = torch.tensor([[place < len(row) for place in range(most)] for row in rows])
    return torch.stack([F.pad(row, (0, 0, 0, most - len(row))) for row in rows]), mask


def _mean(tokens: Sequence[Tensor]) -> Tensor:
    """The unit-length mean of several tokens; a single one as it is."""
    return F.normalize(torch.stack(list(tokens)).mean(0), dim=-1) if len(tokens) > 1 else tokens[0]


def _digest(names: str, tokens: Float[Tensor, "names dim"]) -> str:
    """The xxh3 digest of a table of text tokens: its names as JSON, and type, shape and bytes of the tokens."""
    digest = xxhash.xxh3_128(f"{names} {tokens.dtype} {tuple(tokens.shape)}".encode())
    digest.update(tokens.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
