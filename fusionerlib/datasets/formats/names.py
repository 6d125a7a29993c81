"""Names of classes in a user's files."""

import re

BACKGROUND = "background"
IGNORED = "ignore"
_SPECIAL = {"background": BACKGROUND, "bg": BACKGROUND} | dict.fromkeys(
    ("ignore", "ignored", "void", "unlabeled", "unlabelled"), IGNORED
)


def plain(name: str) -> str:
    """``name`` without spaces around it, and with one space where several are."""
    return " ".join(name.split())


def special(name: str) -> str | None:
    """``background`` or ``ignore`` where ``name`` is no class: whatever the case, in underscores, after an index.

    Examples: ``_background_``, ``Background``, ``0 background``, ``__ignore__``, ``void``.
    """
    bare = re.sub(r"^\d+[\s:=,._-]*", "", plain(name).casefold()).strip("_ ")
    return _SPECIAL.get(bare)
