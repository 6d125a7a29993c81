"""Is a folder of one's own plausible? One table of what its masks hold, and every problem in one pass."""

import re
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from fusionerlib.config import DataConfig
from fusionerlib.datasets.coco_instances import CocoInstances
from fusionerlib.datasets.folder import Part, read_folder, reading_problems
from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.scene import IGNORE, Scenes
from fusionerlib.datasets.transforms import Concat
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError, FusionerWarning
from fusionerlib.progress import each

LOOKED_AT = 500
"""Pictures of a part that are read before a training; `fusioner data check` reads all."""
FEW = 3
"""A name with fewer training pictures than this is warned about."""
_PARTS: tuple[Part, ...] = get_args(Part)
_NO_WORD = re.compile(r"(?i:class|label|cls|id|object)?[\s-]*\d+|.*_.*|.*[a-z][A-Z].*")
"""A name such as "class 3", "traffic_light" or "TrafficLight"."""


@dataclass
class PartCount:
    """What the pictures of a split hold.

    pictures: how many there are; looked_at: how many of them were read. total, background, ignored: pixels. pixels,
    shown: pixels of each name, and pictures that show it. empty: objects and names without a pixel, by picture.
    broken: pictures that can't be used, with the reason.
    """

    pictures: int
    looked_at: int = 0
    total: int = 0
    background: int = 0
    ignored: int = 0
    pixels: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass
class Check:
    """What ``check_folder`` found. fatal: what makes training or figures meaningless. warned: the rest. names: all."""

    root: Path
    parts: dict[str, PartCount]
    names: tuple[str, ...]
    fatal: list[str]
    warned: list[str]

    def text(self) -> str:
        """The table and the problems, as plain text."""
        lines = [str(self.root)]
        for part, count in self.parts.items():
            share = f", background {_share(count.background, count)}, ignored {_share(count.ignored, count)}"
            looked = "" if count.looked_at == count.pictures else f" ({count.looked_at:,} looked at)"
            lines.append(f"{part}: {count.pictures:,} pictures{looked}" + (share if count.total else ""))
        if self.names and self.parts:
            width = max(4, *(len(name) for name in self.names))
            head = "".join(f"{f'{part} pictures':>17}{f'{part} pixels':>15}" for part in self.parts)
            lines += ["", f"{'name':<{width}}{head}"]
            for name in self.names:
                cells = "".join(f"{count.shown[name]:>17,}{count.pixels[name]:>15,}" for count in self.parts.values())
                lines.append(f"{name:<{width}}{cells}")
        lines += ["", *(f"stops: {line}" for line in self.fatal), *(f"warning: {line}" for line in self.warned)]
        return "\n".join(lines if self.fatal or self.warned else [*lines, "no problem found"])


def check_folder(root: Path, *, limit: int | None = None, quiet: bool = False) -> Check:
    """Read the folder ``root`` as ``read_folder`` does, and count what its masks hold; never raises for its content.

    limit: of each split read at most so many pictures, evenly spaced; all if None. Every picture is decoded with its
    mask, so that those that can't be used are all named.
    """
    root, fatal, findings = Path(root), [], Findings()
    parts: dict[str, PartCount] = {}
    scenes: dict[str, Scenes] = {}
    for part in _PARTS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FusionerWarning)
                scenes[part] = read_folder(root, split=part, early=False)
        except FusionerError as error:
            fatal.append(str(error))
    once: dict[str, str] = {}  # what is wrong with the folder is wrong with a split, with other counts
    for text in [*reading_problems(root), *fatal]:
        once.setdefault(re.sub(r"^\d+ of \d+ ", "", text), text)
    fatal = list(once.values())
    for name, read in scenes.items():
        _merge(findings, getattr(read, "findings", Findings()))
        parts[name] = _counted(read, name, limit, quiet)
    known = [name for read in scenes.values() for name in _known(read)]
    drawn = [name for count in parts.values() for name in count.pixels]
    names = tuple(dict.fromkeys([*known, *drawn]))
    more, warned = _problems(parts, names, scenes)
    return Check(root, parts, names, [*fatal, *more], [*findings.problems, *findings.notes, *warned])


def plausible(data: DataConfig, *, strict: bool = False, quiet: bool = False) -> None:
    """Show the check of a run's own folder before its training, on stderr; nothing for another data set.

    strict: warnings stop too. Raises FusionerError for what makes the training or its figures meaningless.
    """
    if data.dataset != "folder":
        return
    check = check_folder(data.root, limit=LOOKED_AT, quiet=True)
    if not quiet:
        print(check.text(), file=sys.stderr)
    if stop := check.fatal + (check.warned if strict else []):
        raise FusionerError(
            f"{data.root}: {'; '.join(stop)}. `fusioner data check {data.root}` shows the whole table"
            + ("; leave out --strict to train with warnings" if not check.fatal else "")
        )


def _counted(scenes: Scenes, part: str, limit: int | None, quiet: bool) -> PartCount:
    count = PartCount(len(scenes))
    step = max(1, -(-len(scenes) // limit)) if limit else 1
    places = range(0, len(scenes), step)
    for place in each(places, f"reading {part}", total=len(places), unit="picture", quiet=quiet):
        count.looked_at += 1
        try:
            scene = scenes[place]
        except FusionerError as error:
            count.broken.append(str(error))
            continue
        counts = np.bincount(scene.labels.ravel(), minlength=IGNORE + 1)
        count.total += scene.labels.size
        count.background, count.ignored = count.background + int(counts[0]), count.ignored + int(counts[IGNORE])
        for label, name in enumerate(scene.names, start=1):
            count.pixels[name] += int(counts[label])
            count.shown[name] += bool(counts[label])
            count.empty += [] if counts[label] else [f"{name} in {scene.key}, hidden by others or empty"]
        count.empty += _empty_objects(scenes, place)
    return count


def _empty_objects(scenes: Scenes, place: int) -> list[str]:
    """The objects of a COCO file's image whose own mask has no pixel, while others of their name have some."""
    if isinstance(scenes, Concat):
        inner, place = scenes.part_of(place)
        return _empty_objects(inner, place)
    return scenes.empty_objects(place) if isinstance(scenes, CocoInstances) else []


def _known(scenes: Scenes) -> Sequence[str]:
    return getattr(scenes, "classes", ()) or getattr(scenes, "categories", ())


def _merge(findings: Findings, other: Findings) -> None:
    """Add what is new: both splits may come from one file, whose findings are the same."""
    seen = {*findings.problems, *findings.notes}
    if not {*other.problems, *other.notes} <= seen:
        findings.add(other)


def _problems(
    parts: dict[str, PartCount], names: Sequence[str], scenes: dict[str, Scenes]
) -> tuple[list[str], list[str]]:
    fatal, warned = Findings(), Findings()
    for part, count in parts.items():
        fatal.problem(f"{part} pictures can't be used", count.broken)
        fatal.problem("splits have no picture with an object", [part] if not count.pictures else [])
        if count.total and not +count.pixels:
            fatal.problem(
                "splits have no pixel with a name: masks are empty, or hold other indices than the names'", part
            )
        if count.total and count.ignored >= 0.99 * count.total:
            fatal.problem("splits are ignored (255) to 99% or more: nothing is left to train or score", part)
        elif count.ignored > count.total / 2:
            warned.problem("splits are ignored (255) to more than half", f"{part}, {_share(count.ignored, count)}")
        if count.total and count.background > 0.98 * count.total:
            warned.problem("splits are background to more than 98%", f"{part}, {_share(count.background, count)}")
        warned.problem(f"{part} objects have no pixel", count.empty)
    looked = all(count.looked_at == count.pictures for count in parts.values())
    where = "" if looked else " in the pictures looked at"
    drawn = {name for count in parts.values() for name in +count.pixels}
    if {*_PARTS} <= {*parts}:
        warned.problem(f"names are never drawn{where}", [name for name in names if name not in drawn])
        train, val = parts["train"], parts["val"]
        rare = [f"{name} ({train.shown[name]})" for name in names if name in drawn and train.shown[name] < FEW]
        warned.problem(f"names have fewer than {FEW} training pictures{where}", rare)
        untested = [name for name in names if train.shown[name] and not val.shown[name]]
        warned.problem(f"names of training are not in the validation pictures{where}", untested)
        warned.problem("validation pictures have the content of a training picture", _copies(scenes))
    odd = [name for name in names if _NO_WORD.fullmatch(name)]
    warned.problem("names are no words as in English, which is what a text encoder reads", odd)
    return fatal.problems, warned.problems


def _copies(scenes: dict[str, Scenes]) -> list[str]:
    """The validation pictures that are a training picture too, byte for byte."""
    files = {part: _files(read) for part, read in scenes.items()}
    digests = {part: content_digests(paths) for part, paths in files.items()}
    trained = dict(zip(digests["train"], files["train"], strict=True))
    pairs = zip(digests["val"], files["val"], strict=True)
    return [f"{file.name} ({trained[digest].name})" for digest, file in pairs if digest in trained]


def _files(scenes: Scenes) -> list[Path]:
    if isinstance(scenes, Concat):
        return [file for part in scenes.parts for file in _files(part)]
    return list(getattr(scenes, "files", ())) or [image for _, image, _ in getattr(scenes, "pairs", ())]


def _share(pixels: int, count: PartCount) -> str:
    return f"{pixels / max(count.total, 1):.1%}"
