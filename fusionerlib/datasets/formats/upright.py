"""Pictures that EXIF turns: whether their masks were drawn on the picture as it is shown, or as it is stored."""

from collections.abc import Callable, Iterable
from pathlib import Path

from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.errors import FusionerError
from fusionerlib.images import Header, read_header

_SEVERAL = "pictures have several pages or frames, of which the first is read"
_TOLD = "pictures left out, EXIF turns them and it can't be known whether their masks are turned too: save them upright"


def drawn_as_stored(
    pictures: Iterable[Path],
    size_of: Callable[[Path], tuple[int, int] | None],
    findings: Findings,
    *,
    shown: bool = False,
) -> tuple[frozenset[Path], frozenset[Path]]:
    """The pictures whose masks ignore the EXIF orientation, and those of which that can't be known.

    A size decides where the picture is turned to its side. For one that is upside down, mirrored or square it says
    nothing: there the others of the data set decide, if they agree, as all masks come from one tool; else the picture
    is left out, and ``findings`` say so.
    size_of: (height, width) of a picture's mask; None where nothing but the picture itself gives one. shown: that the
    masks are known to be drawn on the picture as it is shown. A picture that is no image is neither; it fails when it
    is read.
    """
    turned: list[tuple[Path, Header]] = []
    for file in pictures:
        try:
            header = read_header(file)
        except FusionerError:
            continue
        if header.pages > 1:
            findings.note(_SEVERAL, f"{file.name} ({header.pages})")
        if header.orientation != 1:
            turned.append((file, header))
    stored, unclear, unknown, votes = set(), [], [], set()
    for file, header in turned:
        given = size_of(file)
        as_stored, as_shown = (size == given for size in ((header.height, header.width), header.shown))
        if given is None:
            unknown.append((file, header.orientation))
        elif as_stored and as_shown:
            unclear.append((file, header.orientation))
        elif as_stored or as_shown:
            votes.add(as_stored)
            stored |= {file} if as_stored else set()
    if unclear and votes == {True}:
        stored |= {file for file, _ in unclear}
        unclear = []
    if votes == {False} or shown:
        return frozenset(stored), frozenset()
    unclear += unknown
    findings.problem(_TOLD, [f"{file.name} (orientation {orientation})" for file, orientation in unclear])
    return frozenset(stored), frozenset(file for file, _ in unclear)
