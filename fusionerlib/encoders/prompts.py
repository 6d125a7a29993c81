"""Prompt templates: sentences with a hole for a name. A name's token is the average over a set of them."""

from fusionerlib.errors import FusionerError

_SETS: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "photo": ("a photo of a {}.",),
    "few": (
        "a {}.",
        "a picture of a {}.",
        "a drawing of a {}.",
        "there is a {} in the scene.",
    ),
    "eight": (
        "a {}.",
        "the {}.",
        "a picture of a {}.",
        "a photo of a {}.",
        "a drawing of a {}.",
        "a small {}.",
        "a large {}.",
        "there is a {} in the scene.",
    ),
    "scene": (
        "a {}.",
        "one {}.",
        "the {}.",
        "a picture of a {}.",
        "a picture of the {}.",
        "a photo of a {}.",
        "a photo of one {}.",
        "a drawing of a {}.",
        "an icon of a {}.",
        "a small {}.",
        "a large {}.",
        "a {} on the left.",
        "a {} on the right.",
        "a {} in the middle.",
        "a {} at the edge of the picture.",
        "a {} in front of a plain wall.",
        "a {} before a busy background.",
        "a {} beside other things.",
        "a {} behind something else.",
        "a {} seen from the side.",
        "a {} seen from above.",
        "a {} seen from far away.",
        "a {} seen close up.",
        "a {} indoors.",
        "a {} outdoors.",
        "a {} in bright light.",
        "a {} in the shade.",
        "part of a {}.",
        "a whole {}.",
        "there is a {} in the scene.",
        "here we see a {}.",
        "the thing in this picture is a {}.",
    ),
}


def template_sets() -> list[str]:
    """Names of the template sets."""
    return sorted(_SETS)


def templates(name: str) -> tuple[str, ...]:
    """The templates of the set ``name``, each with one ``{}``. Raises FusionerError for an unknown set."""
    if name not in _SETS:
        raise FusionerError(f"unknown template set {name!r}: known: {', '.join(template_sets())}")
    return _SETS[name]
