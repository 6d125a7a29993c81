"""What is given on the command line: photos, names, thresholds and paths, checked before anything heavy is imported."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fusionerlib.datasets.formats.names import listed_names
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES, read_lines
from fusionerlib.inference.requests import THRESHOLD, checked_names, checked_threshold

STDIN = "-"
"""The argument that stands for an image on standard input."""
OVERLAY = ".overlay.png"
"""What the overlays of several photos end in."""
LIST = ".txt"
"""What a list of photos ends in."""
NAME_FILES = (".txt", ".csv", ".json", ".yaml", ".yml")
"""What a list of names ends in."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def photos_and_names(arguments: Sequence[str], names: str = "") -> tuple[list[str], tuple[str, ...]]:
    """The photos and the names among the arguments of ``fusioner segment``, each in their order.

    An argument that is an existing file is a photo, never a name; so is ``-``, an image on standard input. The others
    are names; commas split them. names: more of them, as in ``names_given``.
    Raises FusionerError for a URL, for an argument that is a path to no file, for no photo, and for names that
    ``checked_names`` refuses.
    """
    photos: list[str] = []
    asked: list[str] = []
    for argument in arguments:
        _refuse_url(argument)
        if argument == STDIN or os.path.isfile(argument):
            photos.append(argument)
        elif _looks_like_a_path(argument) or not (photos or _later_photo(arguments, argument)):
            raise no_such_file(argument)
        else:
            asked += argument.split(",")
    asked = [name.strip() for name in asked if name.strip()]
    if names:
        asked += names_given(names)
    if not asked:
        raise FusionerError(f"no names to look for in {photos[0]}: write them after the photo, as in `cat sofa`")
    if photos.count(STDIN) > 1:
        raise FusionerError("- is given twice: standard input holds one image")
    return photos, checked_names(asked)


def photos_given(arguments: Sequence[str]) -> list[Path]:
    """The photos of ``fusioner predict``: image files, the images of folders, and the lines of ``.txt`` lists.

    A folder's images are those directly in it, in the order of their names. A line of a list counts from the current
    folder, or where no such file is there, from the list's folder. A line without a file is no error here: it fails
    later, alone.
    Raises FusionerError for a URL, for a path that is not there, and for a folder or list without images.
    """
    photos: list[Path] = []
    for argument in arguments:
        _refuse_url(argument)
        path = Path(argument)
        if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
            photos += _images_in(path)
        elif not os.path.isfile(path):
            raise no_such_file(argument)
        elif path.suffix.lower() == LIST:
            photos += _listed(path)
        else:
            photos.append(path)
    return list(dict.fromkeys(photos))


def names_given(text: str) -> tuple[str, ...]:
    """Names from a text with commas, or from a file as ``read_table`` reads it.

    Raises FusionerError where such a file is missing or empty, and as ``checked_names`` does.
    """
    _refuse_url(text)
    path = Path(text)
    if path.suffix.lower() not in NAME_FILES:
        return checked_names([name.strip() for name in text.split(",") if name.strip()])
    if not os.path.isfile(path):
        raise no_such_file(text)
    return checked_names(listed_names(path))


def threshold_given(texts: Sequence[str], names: Sequence[str]) -> float | dict[str, float]:
    """The thresholds of ``--threshold 0.4`` or of ``--threshold cat=0.3 --threshold sofa=0.6``.

    Raises FusionerError for another text, and for a name that is not asked for.
    """
    pairs = [text.rpartition("=") for text in texts]
    try:
        values = {name.strip(): float(value) for name, _, value in pairs}
    except ValueError as error:
        raise FusionerError(f"threshold {' '.join(texts)!r}: expected a number such as 0.4, or cat=0.3") from error
    if "" in values and len(texts) > 1:
        raise FusionerError("several thresholds: give one number, or each with its name, as in --threshold cat=0.3")
    checked = checked_threshold(values.get("", values or THRESHOLD), names)
    return checked if isinstance(checked, float) else dict(checked)


def overlay_files(photos: Sequence[str], output: Path | None) -> list[Path]:
    """Where the overlay of each photo goes.

    One photo: ``output``, by default ``overlay.png``; an existing folder gets ``STEM.overlay.png``. Several photos:
    ``STEM.overlay.png`` in the folder ``output``, by default the current one.
    Raises FusionerError for a suffix that is no image's, for an overlay that would replace its photo, and for two
    photos of one stem.
    """
    if len(photos) == 1 and not (output and os.path.isdir(output)):
        target = output or Path("overlay.png")
        if target.suffix.lower() not in IMAGE_SUFFIXES:
            raise FusionerError(f"{target} is no name of an image file: give one that ends in .png or .jpg")
        targets = [target]
    else:
        if output and output.suffix.lower() in IMAGE_SUFFIXES:
            raise FusionerError(f"{len(photos)} photos can't share {output}: give a folder with -o")
        stems = ["stdin" if photo == STDIN else Path(photo).stem for photo in photos]
        if twice := [stem for stem in stems if stems.count(stem) > 1]:
            raise FusionerError(f"two photos would share {twice[0]}{OVERLAY}: rename one, or segment them separately")
        targets = [(output or Path()) / f"{stem}{OVERLAY}" for stem in stems]
    for target, photo in zip(targets, photos, strict=True):
        if photo != STDIN and target.exists() and target.samefile(photo):
            raise FusionerError(f"the overlay would replace its photo {photo}: give another file with -o")
    parent = next(folder for folder in targets[0].absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise FusionerError(f"{targets[0]} can't be written: {parent} is no folder that can be written to")
    return targets


def no_such_file(argument: str) -> FusionerError:
    """The error for a path that is not there, with the most similar name in its folder."""
    path = Path(argument)
    if os.path.lexists(path):
        if path.is_dir():
            remedy = "give a file in it, or segment all of it with `fusioner predict`"
            return FusionerError(f"{argument!r} is a folder, not a file: {remedy}")
        if path.is_symlink() and not path.exists():
            return FusionerError(f"{argument!r} is a link to {os.readlink(path)}, which is not there: renew the link")
        return FusionerError(f"{argument!r} is a device or a pipe, not a file: save what it gives as a file first")
    try:
        there = os.listdir(path.parent)
    except OSError:
        there = []
    near = difflib.get_close_matches(path.name, there, n=1)
    hint = f"did you mean {str(path.parent / near[0])!r}?" if near else f"check the path (looked in {Path.cwd()})"
    return FusionerError(f"{argument!r} is not a file: {hint}")


def complete_paths(incomplete: str) -> list[str]:
    """Shell completion: the files and folders that begin as ``incomplete`` does; a folder ends in a separator."""
    folder, start = os.path.split(incomplete)
    try:
        there = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    shown = [entry for entry in there if entry.name.startswith(start) and (start or entry.name[0] != ".")]
    return [os.path.join(folder, entry.name) + (os.sep if entry.is_dir() else "") for entry in shown]


def _refuse_url(argument: str) -> None:
    if _URL.match(argument):
        raise FusionerError(f"{argument!r} is a URL, and nothing is downloaded here: download it first, give the file")


def _looks_like_a_path(argument: str) -> bool:
    return argument.lower().endswith(IMAGE_SUFFIXES) or os.sep in argument or "/" in argument


def _later_photo(arguments: Sequence[str], argument: str) -> bool:
    """Whether a photo follows ``argument``, which then is a name before its photo."""
    later = arguments[list(arguments).index(argument) + 1 :]
    return any(one == STDIN or os.path.isfile(one) for one in later)


def _images_in(folder: Path) -> list[Path]:
    files = sorted(name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != ".")
    if not files:
        raise FusionerError(f"{folder} holds no image: expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return [folder / name for name in files]


def _listed(file: Path) -> list[Path]:
    lines = read_lines(file, split=False)
    if not lines:
        raise FusionerError(f"{file} lists no image: write one path a line")
    return [Path(line) if os.path.isfile(line) else file.parent / line for line in lines]
