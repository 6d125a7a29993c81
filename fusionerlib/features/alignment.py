"""Which pairs of encoders have words and patches in one space, where a cosine between the two means something."""

from fusionerlib.config import PairConfig
from fusionerlib.encoders.registry import get_spec
from fusionerlib.errors import FusionerError

OWN_PATCHES = "/patches"
"""Ends the space of patch tokens that only their way ``value`` takes into the space of the text."""
JOINT = {("conse", "mean"), ("class_posteriors", "class_posteriors")}
"""Ways of the packaged pair's visual and textual tokens that lie in one space."""


def aligned_tokens(pair: PairConfig) -> dict[str, str] | None:
    """The leaves that take ``pair``'s tokens in one space, patches as MaskCLIP does; None where there is no way."""
    visual, text = get_spec("visual", pair.visual), get_spec("text", pair.text)
    ways: list[dict[str, str]] = [{"visual_tokens": way} for way in ("value", "") if way in ("", *visual.tokens)]
    if pair.visual == "packaged" and text.space == "all-minilm-l6-v2":
        ways = [{"visual_tokens": "conse", "text_tokens": "mean"}]
    return next((way for way in ways if in_one_space(pair.model_copy(update=way))), None)


def in_one_space(pair: PairConfig) -> bool:
    """Whether a cosine between the words and the patches of ``pair`` means something, by what the registry says."""
    visual, text = get_spec("visual", pair.visual), get_spec("text", pair.text)
    seen, said = _ways(pair)
    if pair.visual == "packaged":
        return text.space == "all-minilm-l6-v2" and (seen, said) in JOINT
    if visual.space.endswith(OWN_PATCHES) and seen != "value":
        return False
    # What vectors are is written in their file, which may not be here.
    return pair.text.startswith("vectors:") or visual.space.removesuffix(OWN_PATCHES) == text.space


def require_one_space(pair: PairConfig, *, by: str) -> None:
    """Raises FusionerError naming the remedy where words and patches of ``pair`` may not be compared.

    by: who compares them, for the message.
    """
    if in_one_space(pair):
        return
    way = aligned_tokens(pair)
    remedy = "choose both halves of one CLIP, such as visual and text 'clip-vit-b16'"
    if way is not None:
        remedy = f"set {' and '.join(f'{leaf} = {value!r}' for leaf, value in way.items())}"
    raise FusionerError(
        f"{by} compares words with patches as they are, but {pair.visual!r} and {pair.text!r} with these tokens are in "
        f"two spaces: {remedy}"
    )


def require_classes(pair: PairConfig) -> None:
    """Raises FusionerError naming the remedy where words and patches of ``pair`` are no distributions over classes."""
    seen, said = _ways(pair)
    if (seen, said) != ("class_posteriors", "class_posteriors"):
        raise FusionerError(
            f"likeness 'classes' compares distributions over classes, but {pair.visual!r} and {pair.text!r} give "
            f"tokens {seen!r} and {said!r}: for the packaged pair set visual_tokens = 'class_posteriors' and "
            "text_tokens = 'class_posteriors', for another set likeness = 'learned'"
        )


def _ways(pair: PairConfig) -> tuple[str, str]:
    """How ``pair``'s patches and words are taken, an empty choice filled in."""
    visual, text = get_spec("visual", pair.visual), get_spec("text", pair.text)
    return visual.resolve_tokens(pair.visual_tokens), text.resolve_tokens(pair.text_tokens)
