"""Which pairs of encoders have text and patch tokens in one embedding space, so that their cosine is meaningful."""

from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.encoders.registry import get_spec
from fusionerlib.errors import FusionerError

OWN_PATCHES = "/patches"
"""Suffix of a visual space whose patch tokens are in the space of the text only as token type ``value`` (MaskCLIP)."""
PACKAGED_SHARED = {("conse", "mean"), ("class_posteriors", "class_posteriors")}
"""Token types of the packaged pair (visual, text) that are in one space."""


def aligned_tokens(pair: PairConfig) -> dict[str, str] | None:
    """The token types (leaves of the config) that put ``pair`` into one space; None where there are none."""
    visual, text = get_spec("visual", pair.visual), get_spec("text", pair.text)
    choices: list[dict[str, str]] = [{"visual_tokens": kind} for kind in ("value", "") if kind in ("", *visual.tokens)]
    if pair.visual == "packaged" and text.space == "all-minilm-l6-v2":
        choices = [{"visual_tokens": "conse", "text_tokens": "mean"}]
    return next((choice for choice in choices if in_one_space(pair.model_copy(update=choice))), None)


def in_one_space(pair: PairConfig) -> bool:
    """Whether text tokens and patch tokens of ``pair`` are in one space, according to the registry."""
    visual, text = get_spec("visual", pair.visual), get_spec("text", pair.text)
    patch_tokens, text_tokens = _token_types(pair)
    if pair.visual == "packaged":
        return text.space == "all-minilm-l6-v2" and (patch_tokens, text_tokens) in PACKAGED_SHARED
    if visual.space.endswith(OWN_PATCHES) and patch_tokens != "value":
        return False
    # The space of a table of vectors is written in its file, which may not be on this machine.
    return pair.text.startswith("vectors:") or visual.space.removesuffix(OWN_PATCHES) == text.space


def check_tokens(run: RunConfig) -> None:
    """Check that the tokens of the run's pair can be compared in the way that its model compares them.

    Raises FusionerError with the remedy where a model needs one space, or distributions over classes, and the pair does
    not give them.
    """
    if run.fusion.kind == "training_free":
        _require_one_space(run.pair, "kind 'training_free'")
    if run.fusion.kind == "cost_aggregation" and run.fusion.similarity == "class_posteriors":
        _require_class_posteriors(run.pair)
    if run.fusion.kind == "cost_aggregation" and run.fusion.similarity == "cosine":
        _require_one_space(run.pair, "similarity 'cosine'")


def _require_one_space(pair: PairConfig, what: str) -> None:
    if in_one_space(pair):
        return
    choice = aligned_tokens(pair)
    remedy = "choose both halves of one CLIP, such as visual and text 'clip-vit-b16'"
    if choice is not None:
        remedy = f"set {' and '.join(f'{leaf} = {value!r}' for leaf, value in choice.items())}"
    raise FusionerError(
        f"{what} takes the cosine of text tokens and patch tokens, but {pair.visual!r} and {pair.text!r} "
        f"with these tokens are in two spaces: {remedy}"
    )


def _require_class_posteriors(pair: PairConfig) -> None:
    patch_tokens, text_tokens = _token_types(pair)
    if (patch_tokens, text_tokens) != ("class_posteriors", "class_posteriors"):
        raise FusionerError(
            f"similarity 'class_posteriors' compares distributions over classes, but {pair.visual!r} and "
            f"{pair.text!r} give tokens {patch_tokens!r} and {text_tokens!r}: for the packaged pair set visual_tokens "
            "= 'class_posteriors' and text_tokens = 'class_posteriors', for another pair similarity = 'learned'"
        )


def _token_types(pair: PairConfig) -> tuple[str, str]:
    """The token types of both sides, an empty choice replaced by the encoder's first."""
    return get_spec("visual", pair.visual).resolve_tokens(pair.visual_tokens), get_spec(
        "text", pair.text
    ).resolve_tokens(pair.text_tokens)
