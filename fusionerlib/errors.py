"""The error and the warning of the library, and the hint for a misspelt name."""

import difflib
from collections.abc import Iterable, Sequence


class FusionerError(ValueError):
    """Bad input. The message names the value, what was expected, and what to do about it."""


class FusionerWarning(UserWarning):
    """Something in the user's data was left out or read otherwise than written; the message counts and names it."""


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for an unknown ``name``: ``did you mean 'x'?`` for the most similar of ``known``, else the whole list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def one_of(what: str, value: object, known: Iterable[object]) -> None:
    """Raises FusionerError where ``value``, given for the setting ``what``, is not one of ``known``."""
    if value not in (known := list(known)):
        raise FusionerError(f"{what} = {value!r}: expected one of {', '.join(map(repr, known))}")
