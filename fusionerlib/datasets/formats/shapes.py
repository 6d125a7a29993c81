"""COCO's ``segmentation``: polygons, and run lengths, compressed or not. Checked first, then drawn.

Run lengths are counted down the columns, from the upper left, beginning with pixels outside the object. Compressed,
each count is written in groups of five bits, the lowest first, as characters from "0" on: bit 5 says that a group
follows, and bit 4 of the last group is the sign; from the fourth count on, the difference to the count two before is
written (the format of pycocotools' maskApi).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from fusionerlib.errors import FusionerError

_GROUPS = 7
"""Most groups of five bits of one count: 35 bits, more than the pixels of any picture."""
_NUMBERS = {int, float}


class BadShape(ValueError):
    """A ``segmentation`` that is no shape; the message says why."""


def check_shape(shape: Any, height: int, width: int) -> None:
    """Raises BadShape where ``shape`` is no ``segmentation`` of an image of this size. Draws nothing.

    A polygon needs at least three points, all numbers finite. No point may lie further outside the image than the
    image is wide or high: pycocotools would need gigabytes for it, or crash.
    """
    if isinstance(shape, dict):
        _counts(shape, height, width)
        return
    if shape is None:
        raise BadShape("it is null")
    if not isinstance(shape, list | tuple):
        raise BadShape(f"it is a {type(shape).__name__}")
    if not shape:
        raise BadShape("it is empty")
    for part in shape:
        if not isinstance(part, list | tuple):
            raise BadShape(
                "it is a flat list, not a list of polygons" if _plain(shape) else "its polygons are no lists"
            )
        _check_polygon(part, height, width)


def object_mask(shape: Any, height: int, width: int, *, where: str) -> Bool[np.ndarray, "height width"]:
    """The mask of a COCO ``segmentation``. Raises FusionerError naming ``where`` where ``check_shape`` refuses it."""
    try:
        check_shape(shape, height, width)
    except BadShape as error:
        raise FusionerError(
            f"{where}: an object's segmentation can't be read ({error}): expected polygons or run lengths as COCO "
            "publishes them; mend or drop the object"
        ) from error
    if isinstance(shape, dict):
        counts = _counts(shape, height, width)
        inside = np.arange(len(counts)) % 2 == 1
        return np.repeat(inside, counts).reshape(width, height).T
    try:
        from pycocotools import mask as runs
    except ImportError as error:
        raise FusionerError("COCO's masks need pycocotools: run `pip install 'fusioner[data]'`") from error
    parts = [[float(number) for number in part] for part in shape]
    mask: UInt8[np.ndarray, "height width"] = runs.decode(runs.merge(runs.frPyObjects(parts, height, width)))
    return mask.astype(bool)


def _check_polygon(part: Sequence[Any], height: int, width: int) -> None:
    if not set(map(type, part)) <= _NUMBERS:
        nested = any(isinstance(value, list | tuple) for value in part)
        raise BadShape("it is nested too deep" if nested else "a coordinate is no number")
    # pycocotools would read four numbers as a box, and drop an odd last one.
    if len(part) < 6 or len(part) % 2:
        raise BadShape(f"a polygon has {len(part)} numbers, expected x and y of three points or more")
    try:
        finite = math.isfinite(sum(part)) or all(map(math.isfinite, part))
    except OverflowError:
        finite = False
    if not finite:
        raise BadShape("a coordinate is infinite or not a number")
    if min(part) >= 0 and max(part) <= 1 < min(height, width) and any(value % 1 for value in part):
        raise BadShape("its coordinates are fractions of the image (0 to 1), expected pixels")
    for axis, side, values in (("x", width, part[0::2]), ("y", height, part[1::2])):
        if min(values) < -side or max(values) > 2 * side:
            far = min(values) if min(values) < -side else max(values)
            raise BadShape(f"{axis} = {far:g} is far outside the image of {width}x{height}")


def _counts(shape: dict[str, Any], height: int, width: int) -> Int64[np.ndarray, " runs"]:
    counts, size = shape.get("counts"), shape.get("size")
    if not isinstance(size, list | tuple) or [str(side).removesuffix(".0") for side in size] != [
        str(height),
        str(width),
    ]:
        raise BadShape(f"its run lengths are of size {size}, the image is {[height, width]} (height, width)")
    if isinstance(counts, str | bytes):
        found = _unpacked(counts)
    elif isinstance(counts, list | tuple) and set(map(type, counts)) <= _NUMBERS:
        if not all(0 <= value <= height * width and value == int(value) for value in counts):
            raise BadShape("a run length is negative, broken or too long")
        found = np.array(counts, dtype=np.int64)
    else:
        raise BadShape("it has no run lengths (counts)")
    # pycocotools checks neither: it would return memory that it has not written.
    if (found < 0).any():
        raise BadShape("a run length is negative")
    if int(found.sum()) != height * width:
        raise BadShape(f"its run lengths add up to {int(found.sum())} pixels, the image has {height * width}")
    return found


def _unpacked(counts: str | bytes) -> Int64[np.ndarray, " runs"]:
    """The run lengths of a compressed text."""
    try:
        codes = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, dtype=np.uint8)
    except UnicodeEncodeError:
        raise BadShape("its run lengths hold characters that are none of the format") from None
    if not len(codes) or codes.min() < 48 or codes.max() >= 48 + 64:
        raise BadShape("its run lengths hold characters that are none of the format" if len(codes) else "it is empty")
    groups = codes.astype(np.int64) - 48
    ends = np.flatnonzero(groups & 0x20 == 0)
    if not len(ends) or ends[-1] != len(groups) - 1:
        raise BadShape("its run lengths break off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _GROUPS:
        raise BadShape("a run length is too long")
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    negative = groups[ends] & 0x10 != 0
    values[negative] -= 1 << (5 * (ends - starts + 1))[negative]
    # Differences from the fourth count on: two chains, of the even and of the odd ones; the first is not in them.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _plain(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= _NUMBERS
