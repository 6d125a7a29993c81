"""What is asked of a segmenter: names and thresholds. Checked without torch, so that a mistake is told at once."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

from fusionerlib.errors import FusionerError, nearest

NAME_LENGTH = 200
"""Most characters of a name: text encoders truncate longer ones without a warning."""
THRESHOLD = 0.5
"""The paper's threshold, and that of the names that a mapping of thresholds leaves out."""
Threshold = float | Mapping[str, float]
"""One threshold (0-1) for all names, or thresholds by name; names without one have ``THRESHOLD``."""


@overload
def checked_threshold(threshold: float, names: Sequence[str] = ()) -> float: ...
@overload
def checked_threshold(threshold: Threshold, names: Sequence[str] = ()) -> Threshold: ...
def checked_threshold(threshold: Threshold, names: Sequence[str] = ()) -> Threshold:
    """``threshold`` as a float, or as a dictionary of floats by name.

    Raises FusionerError where one is outside 0-1 (nan included), and for one of a name that is not in ``names``.
    """
    if isinstance(threshold, Mapping):
        if unknown := [name for name in threshold if name not in names]:
            raise FusionerError(
                f"threshold of {unknown[0]!r}, which is not asked for: {nearest(str(unknown[0]), list(names))}"
            )
        return {name: _checked_number(value, f" of {name!r}") for name, value in threshold.items()}
    return _checked_number(threshold)


def _checked_number(threshold: float, whose: str = "") -> float:
    if not 0 <= threshold <= 1:
        raise FusionerError(
            f"threshold {threshold}{whose} is outside 0-1: it is compared with probabilities, 0.5 is the paper's"
        )
    return float(threshold)


def checked_names(names: Sequence[Any]) -> tuple[str, ...]:
    """``names`` as a tuple; raises FusionerError with the first one that can't be asked for."""
    if isinstance(names, str):
        raise FusionerError(f"names is the string {names!r}, expected a list: did you mean [{names!r}]?")
    if not len(names):
        raise FusionerError('no names were given: pass at least one, as in segment(["cat"])')
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise FusionerError(f"name {index} is {name!r} ({type(name).__name__}), expected a string such as 'cat'")
        if not name.strip():
            raise FusionerError(f"name {index} is blank ({name!r}): leave it out or write a word")
        if len(name) > NAME_LENGTH:
            start = f"{name[:20]!r}..."
            raise FusionerError(
                f"name {index} ({start}) has {len(name)} characters, expected at most {NAME_LENGTH}: shorten it"
            )
        if name in names[:index]:
            raise FusionerError(f"name {index}, {name!r}, is given twice: ask for each name once")
    return tuple(names)
