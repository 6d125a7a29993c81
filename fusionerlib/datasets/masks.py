"""Index masks from disk: the class of each pixel as one number, and which mask belongs to which image."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.errors import FusionerError
from fusionerlib.images import read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What an image file may end in, in small or capital letters. A mask is always a ``.png``."""
EXPORT = (
    "export indices (class ids) from the annotation tool, or replace each colour by its index and save that as mode 'L'"
)


def read_indices(
    file: Path, *, known: Collection[int], meaning: str, remedy: str = ""
) -> UInt8[np.ndarray, "height width"]:
    """The indices (0-255) of a PNG with a palette or in grey, of any bit depth.

    known: the indices that have a meaning beside 255. meaning: where that is written, for the error. remedy: what to do
    about colours or another index, where something better is known than how to draw or export anew.
    Raises FusionerError naming the file where it is broken, is a picture in colours, or holds another index.
    """
    try:
        with Image.open(file) as opened:
            # The palette's colours mean nothing: the indices are the classes, so the file is never converted.
            mode, raw = opened.mode, np.asarray(opened)
    # Pillow's readers raise whatever their parsers stumble over; all of it means the same to the caller.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise FusionerError(f"mask {file} can't be read as an image ({reason}): copy it again") from error
    if raw.ndim != 2 or raw.dtype.kind not in "bui":
        raise FusionerError(
            f"mask {file} has Pillow mode {mode!r}, colours instead of indices: expected one index a pixel, in a PNG "
            f"with a palette or in grey; {remedy or EXPORT}"
        )
    # Only what lies beyond the run of known indices from 0 is sorted: a mask is read for every view of its image.
    beyond = raw[(raw >= next(index for index in range(257) if index not in known)) & (raw != IGNORE)]
    odd = sorted({int(value) for value in np.unique(beyond)} - {*known})
    if odd:
        raise FusionerError(
            f"mask {file} holds {', '.join(map(str, odd[:5]))}: not in {meaning}, which has {_ranges(known)}; "
            + (remedy or "give the index a name there, or draw those pixels with a known one (255 is ignored)")
        )
    return raw.astype(np.uint8, copy=False)


def read_pair(image: Path, raw: UInt8[np.ndarray, "height width"], mask: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The image that ``raw``, read from ``mask``, belongs to. Raises FusionerError where their sizes differ."""
    pixels = read_image(image)
    if pixels.shape[:2] == raw.shape:
        return pixels
    # Some tools draw on a photo as the camera held it, whatever its EXIF tag says is up.
    with Image.open(image) as opened:
        untouched = read_image(np.array(opened.convert("RGB")))
    if untouched.shape[:2] == raw.shape:
        return untouched
    raise FusionerError(
        f"mask {mask} is {raw.shape[::-1]} pixels, its image {image} {pixels.shape[1::-1]} (width, height): export the "
        "mask again at the image's size, to the nearest pixel"
    )


def image_files(folder: Path) -> dict[str, Path]:
    """The images in ``folder`` by stem, in the order of their names.

    Raises FusionerError where there is none, or two of one stem.
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
    """(stem, image, mask) of all images in a folder, or of ``stems`` in their order.

    Raises FusionerError naming the first image or mask that is missing, and how many are.
    """
    found = image_files(images)
    wanted = list(found if stems is None else dict.fromkeys(stems))
    if lost := [stem for stem in wanted if stem not in found]:
        raise FusionerError(
            f"{len(lost)} of {len(wanted)} listed images are not in {images}, the first is {lost[0]!r}: copy them "
            "there, or take them off the list"
        )
    there = set(os.listdir(masks)) if masks.is_dir() else set()
    if lost := [stem for stem in wanted if f"{stem}.png" not in there]:
        raise FusionerError(
            f"{len(lost)} of {len(wanted)} images have no mask, the first is {found[lost[0]]}: expected "
            f"{masks / f'{lost[0]}.png'}; add the masks (index PNGs of the images' stems), or move the images away"
        )
    return [(stem, found[stem], masks / f"{stem}.png") for stem in wanted]


def _ranges(known: Collection[int]) -> str:
    ordered = sorted(known)
    gapless = len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1
    return f"{ordered[0]} to {ordered[-1]}" if gapless else ", ".join(map(str, ordered))
