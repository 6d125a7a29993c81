"""Prompt templates (sentences with ``{}`` for a name) and synonyms. A name's token is the mean over its templates."""

import json
from pathlib import Path

from fusionerlib.errors import FusionerError
from fusionerlib.files import read_lines, read_text
from fusionerlib.name_forms import everyday

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


_OPEN_CLIP = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
"""Sets that open_clip publishes (80 and 7 templates of CLIP's zero-shot evaluation) by their names there."""


EVERYDAY = "everyday"
"""The name of the packaged synonyms."""


def template_sets() -> list[str]:
    """Names of the template sets."""
    return sorted({*_SETS, *_OPEN_CLIP})


def templates(name: str) -> tuple[str, ...]:
    """The templates of the set ``name``, or of a text file with a template a line, each with one ``{}``.

    Raises FusionerError for an unknown set, and for a line of the file that is not a template.
    """
    if name in _SETS:
        return _SETS[name]
    if name in _OPEN_CLIP:
        from open_clip import zero_shot_metadata

        # open_clip's templates are functions of the name.
        return tuple(template("{}") for template in getattr(zero_shot_metadata, _OPEN_CLIP[name]))
    if Path(name).is_file():
        return _read(Path(name))
    raise FusionerError(
        f"unknown template set {name!r}: known: {', '.join(template_sets())}, or the path of a text file"
    )


def _read(file: Path) -> tuple[str, ...]:
    lines = read_lines(file, split=False)
    for number, line in enumerate(lines, start=1):
        if line and (line.count("{}") != 1 or line.count("{") != 1 or line.count("}") != 1):
            raise FusionerError(
                f"{file}, line {number}: {line!r} is not a template: write one {{}} where the name goes"
            )
    if not any(lines):
        raise FusionerError(f"{file} has no template: write one a line, such as 'a photo of a {{}}.'")
    return tuple(dict.fromkeys(line for line in lines if line))


def synonyms(file: str) -> dict[str, tuple[str, ...]]:
    """Further words for names, from a JSON file that maps a name to a list of words; {} for "".

    "everyday" is the packaged table (``name_forms.everyday``), of which these are the ``words``: for names that no
    class of ImageNet covers, such as clothes for people.
    Raises FusionerError where the file is missing or is not such an object.
    """
    if not file:
        return {}
    if file == EVERYDAY:
        return dict(everyday().words)
    try:
        given = json.loads(read_text(Path(file)))
        if not all(isinstance(word, str) and word.strip() for words in given.values() for word in words):
            raise ValueError("a word is blank or not a string")
        if any(isinstance(words, str) for words in given.values()):
            raise ValueError("a name has a string where a list of words is expected")
        return {name: tuple(words) for name, words in given.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        remedy = 'expected a JSON object such as {"sofa": ["couch", "settee"]}'
        raise FusionerError(f"synonyms {file!r} can't be read ({error}): {remedy}") from error
