"""The one error that is meant for people: it names the value, what was expected, and the remedy."""

import difflib
from collections.abc import Sequence


class FusionerError(ValueError):
    """Bad input, told in one or two sentences: the value, what was expected, what to do about it."""


def nearest(name: str, known: Sequence[str]) -> str:
    """The remedy for an unknown ``name``: the one of ``known`` that is spelt nearly so, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
