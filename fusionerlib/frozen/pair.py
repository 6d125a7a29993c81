"""The pair of frozen encoders that a config names."""

from pathlib import Path

from fusionerlib.config import PairConfig
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.encoders.prompts import synonyms, templates
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.frozen.words import WordTable


def visual_of(pair: PairConfig, *, device: str = "cpu") -> VisualEncoder:
    """The frozen visual encoder of ``pair``."""
    return load_visual(
        pair.visual,
        device=device,
        weights=pair.visual_weights,
        tokens=pair.visual_tokens,
        precision=pair.precision,
        compiled=pair.compiled,
    )


def words_of(
    pair: PairConfig, *, folder: Path | None = None, limit: int | None = None, device: str = "cpu"
) -> WordTable:
    """The frozen text encoder of ``pair`` with its templates and synonyms; ``folder`` and ``limit`` as in WordTable."""
    encoder = load_text(
        pair.text, device=device, weights=pair.text_weights, tokens=pair.text_tokens, precision=pair.precision
    )
    return WordTable(
        encoder=encoder,
        templates=templates(pair.templates),
        synonyms=synonyms(pair.synonyms),
        folder=folder,
        limit=limit,
    )
