"""Index PNGs from the MATLAB files in which SBD and PASCAL-Context are published."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from fusionerlib.errors import FusionerError
from fusionerlib.progress import each

CONTEXT_NAMES = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow",
    "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food", "grass", "ground",
    "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person", "plate", "platform", "pottedplant",
    "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table",
    "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
"""PASCAL-Context's 59 frequent classes in the spelling of its ``labels.txt``; class c is ``CONTEXT_NAMES[c - 1]``."""


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """VOC's colour map: bits 3k, 3k + 1 and 3k + 2 of an index become bit 7 - k of red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def write_mask(file: Path, labels: UInt8[np.ndarray, "height width"]) -> None:
    """An index PNG with VOC's palette."""
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    image.save(file, "PNG")


def augmented_masks(places: Mapping[str, Path], target: Path, *, quiet: bool = False) -> int:
    """Build ``SegmentationClassAug`` from the parts ``VOC masks`` (PNG) and ``SBD masks`` (.mat); returns the number.

    VOC's own mask where there is one, unchanged, with its borders of 255; SBD's (0-20, no 255) for the other images.
    These are the usual 10,582 + 1,449 masks.
    """
    official = {file.stem: file for file in places["VOC masks"].glob("*.png")}
    others = {file.stem: file for file in places["SBD masks"].glob("*.mat")}
    target.mkdir(parents=True)
    stems = sorted({*official, *others})
    for stem in each(stems, "building SegmentationClassAug", total=len(stems), unit="file", quiet=quiet):
        if stem in official:
            shutil.copyfile(official[stem], target / f"{stem}.png")
        else:
            labels = _map_of(others[stem], "GTcls", "Segmentation")
            write_mask(target / f"{stem}.png", _classes(labels, np.arange(21, dtype=np.uint8), others[stem]))
    return len(stems)


def context_masks(places: Mapping[str, Path], target: Path, *, quiet: bool = False) -> int:
    """Build 59-class PNGs from the parts ``459-class masks`` (.mat) and ``459 names``; returns the number.

    ``CONTEXT_NAMES[c - 1]`` becomes c, every other class 0. Raises FusionerError where the list lacks one of them.
    """
    table = context_table(places["459 names"])
    files = sorted(places["459-class masks"].glob("*.mat"))
    target.mkdir(parents=True)
    for file in each(files, "building SegmentationClassContext", total=len(files), unit="file", quiet=quiet):
        write_mask(target / f"{file.stem}.png", _classes(_map_of(file, "LabelMap"), table, file))
    return len(files)


def context_table(names_file: Path) -> UInt8[np.ndarray, " ids"]:
    """The class (1-59, or 0) of every id in PASCAL-Context's ``labels.txt`` (lines ``id: name``)."""
    rows = [line.partition(":") for line in names_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    ids = {name.replace(" ", ""): int(number) for number, _, name in rows if number.strip().isdigit()}
    missing = [name for name in CONTEXT_NAMES if name not in ids]
    if missing:
        raise FusionerError(
            f"{names_file} does not name {', '.join(missing[:3])}: expected PASCAL-Context's list of 459 names, one "
            "'id: name' a line; unpack trainval.tar.gz again"
        )
    table = np.zeros(max(ids.values()) + 1, dtype=np.uint8)
    table[[ids[name] for name in CONTEXT_NAMES]] = np.arange(1, len(CONTEXT_NAMES) + 1)
    return table


def _classes(
    labels: Integer[np.ndarray, "height width"], table: UInt8[np.ndarray, " ids"], file: Path
) -> UInt8[np.ndarray, "height width"]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(table):
        raise FusionerError(
            f"{file} holds {low if low < 0 else high}: expected class ids 0 to {len(table) - 1}; unpack "
            "the archive again"
        )
    return table[labels]


def _map_of(file: Path, *keys: str) -> Integer[np.ndarray, "height width"]:
    """The label map under ``keys`` of a MATLAB file. Raises FusionerError naming a file that has none."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise FusionerError(
            "masks in MATLAB files need scipy: run `pip install 'fusioner[data]'` in the clone"
        ) from error
    try:
        found: Any = loadmat(file, simplify_cells=True)
        for key in keys:
            found = found[key]
        labels = np.asarray(found)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"{'.'.join(keys)} is {labels.dtype} of shape {labels.shape}")
    # scipy's parser raises exceptions of any type for a broken file.
    except Exception as error:
        raise FusionerError(
            f"{file} can't be read as a mask ({type(error).__name__}: {error}): expected a MATLAB file with an integer "
            f"map {'.'.join(keys)}; unpack the archive again"
        ) from error
    return labels
