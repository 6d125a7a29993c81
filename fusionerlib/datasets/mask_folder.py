"""Index masks on disk: images beside PNGs that give the class of each pixel as one number (0-255)."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusionerlib.datasets.formats.colours import Colour, UnknownColour, indices_of
from fusionerlib.datasets.formats.findings import Findings
from fusionerlib.datasets.scene import IGNORE, Scene, relabelled
from fusionerlib.digests import content_digests
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES, fingerprint
from fusionerlib.images import ORIENTATION, open_image, pages_of, read_image

EXPORT_INDICES = (
    "export indices (class ids) from the annotation tool, or replace each colour by its index and save that as mode 'L'"
)


class MaskFolder:
    """Scenes from (key, image, mask) files; a scene's names are the classes that occur in its mask.

    classes: index to name. background: the indices that become label 0. ignored: those that become 255, as 255 itself
    does. meaning: what defines the indices (a file, a data set), for error messages. colours: the index of each colour,
    for masks of colours. as_stored: the images whose masks ignore their EXIF orientation; None decides by the size.
    findings: what a reader left out, for whoever checks the data.
    ``names`` reads a mask the first time it is asked for, never an image.
    Raises FusionerError on access for a broken file, a mask whose size is not its image's, and an undefined index.
    """

    def __init__(
        self,
        files: list[tuple[str, Path, Path]],
        *,
        classes: Mapping[int, str],
        background: Collection[int] = (0,),
        ignored: Collection[int] = (),
        meaning: str,
        colours: Mapping[Colour, int] | None = None,
        as_stored: Collection[Path] | None = None,
        findings: Findings | None = None,
    ) -> None:
        self.findings, self.pairs = findings or Findings(), files
        self._colours, self._as_stored = dict(colours or {}), as_stored
        self._files, self._by_index, self._ignored = files, dict(sorted(classes.items())), sorted(ignored)
        self._known, self._meaning = {*classes, *background, *ignored}, meaning
        self._present: dict[int, tuple[int, ...]] = {}
        digests = content_digests([file for _, *pair in files for file in pair])
        self.fingerprint = fingerprint(
            "mask folder",
            self._by_index,
            sorted(background),
            self._ignored,
            self.keys,
            digests,
            sorted(self._colours.items()),
            None if as_stored is None else [file in as_stored for _, file, _ in files],
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Every name of the data set, in the order of the indices."""
        return tuple(self._by_index.values())

    @property
    def keys(self) -> list[str]:
        """The key of every scene."""
        return [key for key, _, _ in self._files]

    def __len__(self) -> int:
        return len(self._files)

    def names(self, index: int) -> tuple[str, ...]:
        """The names in the mask of scene ``index``, in the order of the classes."""
        if index not in self._present:
            self._read(index)
        return tuple(self._by_index[number] for number in self._present[index])

    def __getitem__(self, index: int) -> Scene:
        key, image, mask = self._files[index]
        raw = self._read(index)
        labels = relabelled(raw, classes=self._present[index], ignored=self._ignored)
        upright = None if self._as_stored is None else image not in self._as_stored
        return Scene(
            image=read_pair(image, raw, mask, upright=upright), labels=labels, names=self.names(index), key=key
        )

    def _read(self, index: int) -> UInt8[np.ndarray, "height width"]:
        raw = read_indices(self._files[index][2], known=self._known, meaning=self._meaning, colours=self._colours)
        present = indices_in(raw) - set(self._ignored)
        self._present[index] = tuple(number for number in self._by_index if number in present)
        return raw


def read_indices(
    file: Path, *, known: Collection[int], meaning: str, remedy: str = "", colours: Mapping[Colour, int] | None = None
) -> UInt8[np.ndarray, "height width"]:
    """The indices of a PNG with a palette or in grey, of any bit depth, or with ``colours`` that stand for indices.

    known: the indices that are defined, beside 255. meaning: what defines them, for the error message. remedy: replaces
    the general remedy of the error message. colours: to indices; a palette is read by its colours where it has no other
    ones than these, by its indices otherwise.
    Raises FusionerError naming the file where it is broken, holds colours instead of indices, or an undefined index.
    """
    try:
        with open_image(file, f"mask {file}") as opened:
            # The indices are the classes and the palette's colours mean nothing: never convert the file.
            mode, raw = opened.mode, np.asarray(opened)
            _refuse_unclear(opened, file)
            coloured = _by_colour(opened, raw, colours) if colours else None
            if coloured is not None:
                return coloured
    except UnknownColour as error:
        raise FusionerError(
            f"mask {file} holds {error}: not in {meaning}; add the colour there, or export the mask again as PNG "
            "without smoothing"
        ) from error
    except FusionerError:
        raise
    # Pillow's parsers raise exceptions of any type for a broken file.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise FusionerError(f"mask {file} can't be read as an image ({reason}): copy it again") from error
    if raw.ndim != 2 or raw.dtype.kind not in "bui":
        what = "fractions" if raw.dtype.kind == "f" else "colours"
        raise FusionerError(
            f"mask {file} has Pillow mode {mode!r}, {what} instead of indices: expected one index a pixel, in a PNG "
            f"with a palette or in grey; {remedy or EXPORT_INDICES}"
        )
    # For speed (masks are read for every view): sort only the pixels above the first undefined index.
    beyond = raw[(raw >= next(index for index in range(257) if index not in known)) & (raw != IGNORE)]
    if raw.dtype.kind == "i":
        beyond = np.concatenate([raw[raw < 0], beyond])
    odd = sorted({int(value) for value in np.unique(beyond)} - {*known})
    if odd:
        raise FusionerError(
            f"mask {file} holds {', '.join(map(str, odd[:5]))}: not in {meaning}, which has {_ranges(known)}; "
            + (remedy or "give the index a name there, or draw those pixels with a known one (255 is ignored)")
        )
    return raw.astype(np.uint8, copy=False)


def _refuse_unclear(opened: Image.Image, file: Path) -> None:
    """Raise FusionerError for a mask whose pixels are not for certain those that were drawn, at their places."""
    if opened.format in ("JPEG", "MPO", "JPEG2000"):
        raise FusionerError(
            f"mask {file} is a {opened.format} file, whatever its name says, which changes the indices of pixels: "
            "export PNG files"
        )
    if (pages := pages_of(opened)) > 1:
        raise FusionerError(f"mask {file} has {pages} pages or frames: save the one that is meant as a PNG")
    # Pillow has turned a TIFF already.
    if opened.format != "TIFF" and (turn := opened.getexif().get(ORIENTATION, 1)) in range(2, 9):
        raise FusionerError(
            f"mask {file} has an EXIF orientation ({turn}), and it can't be known whether its pixels are turned: save "
            "it anew without EXIF data, as its picture is shown"
        )


def _by_colour(
    opened: Image.Image, raw: np.ndarray, colours: Mapping[Colour, int]
) -> UInt8[np.ndarray, "height width"] | None:
    """The indices of a mask of colours; None for one of indices. Raises UnknownColour."""
    if opened.mode in ("RGB", "RGBA"):
        return indices_of(np.ascontiguousarray(raw[..., :3]), colours)
    if opened.mode != "P":
        return None
    try:
        return indices_of(np.asarray(opened.convert("RGB")), colours)
    except UnknownColour:
        return None


def indices_in(raw: UInt8[np.ndarray, "height width"]) -> set[int]:
    """The indices that occur in a mask."""
    return set(np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist())


def read_pair(
    image: Path, raw: UInt8[np.ndarray, "height width"], mask: Path, *, upright: bool | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of ``image``, at the size of ``raw`` (read from the file ``mask``).

    upright: whether the mask has the image's EXIF orientation; None tries both, as some annotation tools ignore it.
    Raises FusionerError where the sizes differ.
    """
    pixels = read_image(image, upright=upright is not False)
    if pixels.shape[:2] == raw.shape:
        return pixels
    if upright is None and (untouched := read_image(image, upright=False)).shape[:2] == raw.shape:
        return untouched
    raise FusionerError(
        f"mask {mask} is {raw.shape[::-1]} pixels, its image {image} {pixels.shape[1::-1]} (width, height): export the "
        "mask again at the image's size, to the nearest pixel"
    )


def image_files(folder: Path) -> dict[str, Path]:
    """The image files in ``folder`` by stem, sorted by file name.

    Raises FusionerError where there is none, or where two have the same stem.
    """
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    files: dict[str, Path] = {}
    for file in (folder / name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != "."):
        if file.stem in files:
            raise FusionerError(f"{files[file.stem]} and {file.name} would share one mask: rename one of them")
        files[file.stem] = file
    if not files:
        what = "holds no image" if folder.is_dir() else "is no folder"
        raise FusionerError(f"{folder} {what}: expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return files


def paired(images: Path, masks: Path, stems: Iterable[str] | None = None) -> list[tuple[str, Path, Path]]:
    """(stem, image file, mask file) of all images in the folder ``images``, or of ``stems`` in their order.

    Raises FusionerError with the first missing image or mask and how many are missing.
    """
    found = image_files(images)
    wanted = list(found if stems is None else dict.fromkeys(stems))
    if lost := [stem for stem in wanted if stem not in found]:
        raise FusionerError(
            f"{len(lost)} of {len(wanted)} listed images are not in {images}, the first is {lost[0]!r}: copy them "
            "there, or take them off the list"
        )
    present = set(os.listdir(masks)) if masks.is_dir() else set()
    if lost := [stem for stem in wanted if f"{stem}.png" not in present]:
        raise FusionerError(
            f"{len(lost)} of {len(wanted)} images have no mask, the first is {found[lost[0]]}: expected "
            f"{masks / f'{lost[0]}.png'}; add the masks (index PNGs of the images' stems), or move the images away"
        )
    return [(stem, found[stem], masks / f"{stem}.png") for stem in wanted]


def _ranges(known: Collection[int]) -> str:
    """``known`` for an error message: "0 to 20" where there is no gap, else one by one."""
    ordered = sorted(known)
    gapless = len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1
    return f"{ordered[0]} to {ordered[-1]}" if gapless else ", ".join(map(str, ordered))
