"""What is asked of a segmenter: names and thresholds; of a prediction into a folder, its settings and its part.

Checked without torch, so that a mistake is told at once.
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import islice
from numbers import Real
from typing import Any, Literal, overload

from fusionerlib.errors import FusionerError, nearest, one_of
from fusionerlib.hub import find_checkpoint
from fusionerlib.name_forms import form, visible

NAME_LENGTH = 200
"""Most characters of a name: text encoders truncate longer ones without a warning."""
MOST_NAMES = 1_000_000
"""Most names of a call; an iterator may have no end."""
Edges = Literal["guided", "bilinear"]
"""How masks get from the model's grid to the image: guided by its colours (``inference.edges``), or bilinear alone."""
EDGES: tuple[Edges, ...] = ("guided", "bilinear")
THRESHOLD = 0.5
"""The paper's threshold, and that of the names that a mapping of thresholds leaves out."""
Threshold = float | Mapping[str, float]
"""One threshold (0-1) for all names, or thresholds by name; names without one have ``THRESHOLD``."""
WRITTEN = {"index": ("masks", "names.txt"), "coco": ("annotations",), "overlay": ("overlays",), "soft": ("soft",)}
"""What each format writes, beside ``images/``."""
FORMATS = tuple(WRITTEN)
IMAGES = ("link", "copy", "none")
"""How ``images/`` is filled."""


@overload
def checked_threshold(threshold: float, names: Sequence[str] = ()) -> float: ...
@overload
def checked_threshold(threshold: Threshold, names: Sequence[str] = ()) -> Threshold: ...
def checked_threshold(threshold: Any, names: Sequence[str] = ()) -> Threshold:
    """``threshold`` as a float, or as a dictionary of floats by name.

    A name of the mapping is found among ``names`` as it is written, or else by its form: "Cat" is "cat".
    Raises FusionerError for what is no number in 0-1, for a name that is not in ``names``, and for one given twice.
    """
    if not isinstance(threshold, Mapping):
        return _checked_number(threshold)
    by_form = {form(name): name for name in reversed(names)}
    found: dict[str, float] = {}
    for given, value in threshold.items():
        name: str | None = given if given in names else by_form.get(form(given)) if isinstance(given, str) else None
        if name is None:
            raise FusionerError(f"threshold of {given!r}, which is not asked for: {nearest(str(given), list(names))}")
        if name in found:
            raise FusionerError(f"threshold of {given!r}: there is one of {name!r} already, give one for each name")
        found[name] = _checked_number(value, f" of {given!r}")
    return found


def _checked_number(threshold: Any, whose: str = "") -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        given = f"{threshold!r}{whose} ({type(threshold).__name__})"
        raise FusionerError(f"threshold {given}: expected a number from 0 to 1, such as 0.5, or numbers by name")
    # Compared as it is: an int may be too large for a float.
    if not 0 <= threshold <= 1:  # type: ignore[operator]
        raise FusionerError(
            f"threshold {threshold}{whose} is outside 0-1: it is compared with probabilities, 0.5 is the paper's"
        )
    return float(threshold)


def checked_edges(edges: str) -> None:
    """Raises FusionerError for a word that is none of ``EDGES``; "" leaves the choice to the model."""
    if edges:
        one_of("edges", edges, EDGES)


def checked_names(names: Any, *, forms: Callable[[str], str] = form) -> tuple[str, ...]:
    """``names``, any iterable of strings, as a tuple; raises FusionerError with the first one that can't be asked for.

    forms: gives what a name is encoded as. Two names of one form ("cat" and "a Cat") are refused: the text encoder
    can't tell them apart, so rounding would decide which of them a pixel belongs to. A set, whose order differs from
    process to process, is sorted.
    """
    if isinstance(names, str):
        raise FusionerError(f"names is the string {names!r}, expected a list: did you mean [{names!r}]?")
    if hasattr(names, "columns"):
        raise FusionerError(f"names is a table ({type(names).__name__}), expected a list: pass the column of the names")
    try:
        given = tuple(islice(sorted(names, key=str) if isinstance(names, set | frozenset) else names, MOST_NAMES + 1))
    except TypeError:
        kind = type(names).__name__
        raise FusionerError(f"names is {names!r} ({kind}), expected a list of strings such as ['cat']") from None
    if not given:
        raise FusionerError('no names were given: pass at least one, as in segment(["cat"])')
    if len(given) > MOST_NAMES:
        raise FusionerError(f"names gives more than {MOST_NAMES:,} names: does it end? Ask for some of them")
    seen: dict[str, str] = {}
    for number, name in enumerate(given, start=1):
        which = f"name {number} of {len(given)}"
        if not isinstance(name, str):
            raise FusionerError(f"{which} is {name!r} ({type(name).__name__}), expected a string such as 'cat'")
        if not any(visible(character) and not character.isspace() for character in name):
            raise FusionerError(f"{which} is blank ({name!r}): leave it out or write a word")
        if len(name) > NAME_LENGTH:
            start = f"{name[:20]!r}..."
            raise FusionerError(
                f"{which} ({start}) has {len(name)} characters, expected at most {NAME_LENGTH}: shorten it"
            )
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise FusionerError(
                f"{which} ({name!r}) holds half of a character (a lone surrogate), as text read in a wrong "
                "encoding does: read or type it again as UTF-8"
            )
        if not any(unicodedata.category(character)[0] in "LNS" for character in name):
            raise FusionerError(f"{which} has neither a letter nor a digit ({name!r}): write a word")
        encoded = forms(name)
        if encoded in seen:
            before = seen[encoded]
            if name == before:
                raise FusionerError(f"the name {name!r} is given twice: ask for each name once")
            raise FusionerError(
                f"the names {before!r} and {name!r} are the same to the text encoder (both are {encoded!r}): ask for "
                "one of them"
            )
        seen[encoded] = name
    return tuple(map(str.__str__, given))  # numpy's and enum's kinds of text as plain text


@dataclass(frozen=True)
class Settings:
    """What decides the files of a prediction, checked without torch; see ``Segmenter.segment`` and ``FORMATS``.

    edges: guided, bilinear, or "" for what suits the model. instances: COCO annotations by connected part. images: one
    of ``IMAGES``, for ``index`` and ``coco``.
    Raises FusionerError for names, thresholds, formats or a checkpoint that can't be used.
    """

    names: tuple[str, ...]
    checkpoint: str = "packaged"
    formats: tuple[str, ...] = ("index",)
    threshold: Threshold = THRESHOLD
    background: bool = True
    sliding: bool = False
    edges: str = ""
    instances: bool = False
    images: str = "link"

    def __post_init__(self) -> None:
        names = checked_names(self.names)
        object.__setattr__(self, "threshold", checked_threshold(self.threshold, names))
        for value in self.formats:
            if value not in FORMATS:
                raise FusionerError(f"format {value!r}: expected some of {', '.join(FORMATS)}")
        if not self.formats:
            raise FusionerError(f"no format: choose some of {', '.join(FORMATS)}")
        if self.images not in IMAGES:
            raise FusionerError(f"images {self.images!r}: expected one of {', '.join(IMAGES)}")
        checked_edges(self.edges)
        if "index" in self.formats:
            from fusionerlib.inference.formats import check_index_names

            check_index_names(names)
        if self.instances and "coco" not in self.formats:
            raise FusionerError("instances are COCO annotations: add the format coco")
        needed = {"pycocotools": "coco" in self.formats, "scipy": self.instances}
        if lacking := [package for package, wanted in needed.items() if wanted and find_spec(package) is None]:
            raise FusionerError(f"format coco needs {lacking[0]}: pip install 'fusioner[data]'")
        find_checkpoint(self.checkpoint)

    def record(self) -> dict[str, Any]:
        """The settings as JSON holds them, and the sha256 of the checkpoint's files."""
        folder = find_checkpoint(self.checkpoint)
        digests = {
            file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
            for file in ("config.json", "model.safetensors")
        }
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {"settings": settings, "checkpoint_sha256": digests}


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``of``: every ``of``-th image. Raises FusionerError for a number outside 1 to of."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise FusionerError(f"shard {self.number}/{self.of}: expected 1/{max(1, self.of)} to {max(1, self.of)}/...")

    @classmethod
    def parsed(cls, text: str) -> "Shard":
        """The shard of a text such as ``3/16``. Raises FusionerError for another text."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal()):
            raise FusionerError(f"shard {text!r}: expected a text such as 3/16, the third of 16 parts")
        return cls(int(number), int(of))

    @property
    def title(self) -> str:
        """Such as ``part-3-of-16``."""
        return f"part-{self.number}-of-{self.of}"
