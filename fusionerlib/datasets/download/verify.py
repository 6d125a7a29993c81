"""Verification of a data set on disk: against the catalogue (counts, sizes, indices in masks, COCO's file), and against
its manifest, the list of its files that is written beside it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import ValidationError

from fusionerlib.config import Frozen
from fusionerlib.datasets.download.catalogue import DataSet, Instances
from fusionerlib.download import check
from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from fusionerlib.progress import bar

SAMPLE = 200
"""Number of images in a sample, evenly spread over the data set."""

WORKERS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


def verify(
    data: DataSet, places: Mapping[str, Path], *, thorough: bool = False, partial: bool = False, quiet: bool = False
) -> tuple[dict[str, int], int]:
    """Verify the parts at ``places``; returns the number of files in each (and of COCO objects), and of opened images.

    Always: the numbers of files are the published ones, no file is empty, every mask has an image, every image has a
    mask (where the publisher has one for each); every image that a COCO file lists exists, and its objects belong to
    images and categories of that file. For a sample of ``SAMPLE`` images, or for all with ``thorough``: the image can
    be decoded completely, its mask or the COCO file has its size, and the mask is an index image with known indices.
    partial: accept other numbers of files.
    Raises FusionerError with the first wrong files, how many there are, and the remedy.
    """
    files = {key: part.found(places[key]) for key, part in data.layout.items() if key in places}
    counts = {key: len(found) for key, found in files.items()}
    problems = [
        f"{places[key]} has {count} files {data.parts[key].files} ({key}), published are {data.parts[key].count}"
        for key, count in counts.items()
        if count != data.parts[key].count and not partial
    ]
    problems += [f"{file} is empty" for found in files.values() for file in found if not file.stat().st_size]
    if problems:
        raise failure(problems, remedy="unpack the archive again, or pass --partial if this is meant to be a part")
    opened = 0
    for images, masks in data.pairs:
        pairs, missing = _paired(files[images], files[masks], every=data.parts[images].count == data.parts[masks].count)
        if missing:
            raise failure(missing, remedy="unpack the archive again, or remove what has no counterpart")
        opened += _look(pairs, lambda pair: _pair_problem(*pair, data), images, thorough=thorough, quiet=quiet)
    if data.instances is not None:
        rows, counts["objects"] = _listed(places["instances"], data.instances, partial=partial)
        folder, present = places["images"], {file.name for file in files["images"]}
        absent = [f"{folder / row['file_name']} is missing" for row in rows if row["file_name"] not in present]
        if absent and not partial:
            raise failure(absent, remedy="unpack the images again, or pass --partial if this is meant to be a part")
        rows = [row for row in rows if row["file_name"] in present]
        opened += _look(rows, lambda row: _row_problem(row, folder), "images", thorough=thorough, quiet=quiet)
    return counts, opened


def failure(problems: Sequence[str], *, remedy: str) -> FusionerError:
    """The error for ``problems``, with the first three of them."""
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return FusionerError(f"{'; '.join(problems[:3])}{more}: {remedy}")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], what: str, *, quiet: bool) -> list[Result]:
    """``work`` on every item, in order, with a progress bar (Pillow and hashlib release Python's global lock)."""
    done = []
    with ThreadPoolExecutor(WORKERS) as pool, bar(what, total=len(items), unit="file", quiet=quiet) as shown:
        for result in pool.map(work, items):
            done.append(result)
            shown.update()
    return done


def _look(items: Sequence[Item], work: Callable[[Item], str], what: str, *, thorough: bool, quiet: bool) -> int:
    """Check all items, or an even sample of them, by ``work``, which returns a problem or ""; returns how many."""
    chosen = items if thorough else items[:: max(1, -(-len(items) // SAMPLE))]
    if wrong := [problem for problem in in_threads(work, chosen, f"opening {what}", quiet=quiet) if problem]:
        raise failure(wrong, remedy="replace those files by the published ones: unpack the archive again")
    return len(chosen)


def _paired(images: list[Path], masks: list[Path], *, every: bool) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) pairs of equal stems (and of equal folders, where images are in several), and what has no partner.

    every: whether every image needs a mask.
    """
    inside = len({file.parent for file in images}) > 1

    def key(file: Path) -> tuple[str, str]:
        return (file.parent.name if inside else "", file.stem)

    by_key = {key(file): file for file in images}
    pairs = [(by_key[key(mask)], mask) for mask in masks if key(mask) in by_key]
    missing = [f"mask {mask} has no image" for mask in masks if key(mask) not in by_key]
    if every:
        have = {key(mask) for mask in masks}
        missing += [f"image {image} has no mask" for image in images if key(image) not in have]
    return pairs, missing


def _pair_problem(image: Path, mask: Path, data: DataSet) -> str:
    """The problem of one (image, mask) pair; "" for none."""
    try:
        size = _opened(image)[0]
        mask_size, mode, values = _opened(mask, values=data.values is not None)
    except _Broken as error:
        return str(error)
    if mask_size != size and f"{mask.parent.name}/{mask.stem}" not in data.uneven:
        return f"mask {mask} is {mask_size[0]}x{mask_size[1]} pixels, its image {size[0]}x{size[1]}"
    if data.values is None:
        return ""
    if mode not in ("P", "L"):
        return f"mask {mask} has Pillow mode {mode!r}, expected an index image ('P' or 'L')"
    odd = [value for value in values if not any(low <= value <= high for low, high in data.values)]
    ranges = ", ".join(f"{low} to {high}" if low < high else str(low) for low, high in data.values)
    return f"mask {mask} holds {odd[0]}, expected {ranges}" if odd else ""


def _row_problem(row: Mapping[str, Any], folder: Path) -> str:
    """The problem of one image of a COCO file; "" for none."""
    file = folder / row["file_name"]
    try:
        width, height = _opened(file)[0]
    except _Broken as error:
        return str(error)
    if (width, height) != (row["width"], row["height"]):
        return f"{file} is {width}x{height} pixels, the instances file says {row['width']}x{row['height']}"
    return ""


class _Broken(Exception):
    """An image that can't be read."""


def _opened(file: Path, *, values: bool = False) -> tuple[tuple[int, int], str, list[int]]:
    """(width, height), Pillow mode, and with ``values`` the indices of an image, which is decoded completely."""
    try:
        with Image.open(file) as image:
            if image.format == "PNG":
                # Pillow decodes a PNG that is cut short or altered; verify() compares its checksums.
                with Image.open(file) as checked:
                    checked.verify()
            image.load()
            return image.size, image.mode, [int(value) for value in np.unique(np.asarray(image))] if values else []
    # Pillow's parsers raise exceptions of any type for a broken file.
    except Exception as error:
        raise _Broken(f"{file} can't be read as an image ({type(error).__name__}: {error})") from error


def _listed(file: Path, published: Instances, *, partial: bool) -> tuple[list[dict[str, Any]], int]:
    """The images and the number of objects of a COCO instances file. Raises FusionerError for an inconsistent file."""
    try:
        given = json.loads(file.read_bytes())
        rows = [{key: row[key] for key in ("id", "file_name", "width", "height")} for row in given["images"]]
        categories = {row["id"] for row in given["categories"]}
        objects = Counter((row["image_id"], row["category_id"]) for row in given["annotations"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FusionerError(f"{file} can't be read as COCO instances ({error!r}): unpack the archive again") from error
    known = {row["id"] for row in rows}
    problems = [f"object of image {image}" for image, _ in objects if image not in known]
    problems += [f"object of category {category}" for _, category in objects if category not in categories]
    if problems:
        problems = [f"{file} has an {problem} that it does not list" for problem in problems]
        raise failure(problems, remedy="unpack it again")
    count = sum(objects.values())
    if (count, len(categories)) != (published.objects, published.categories) and not partial:
        raise FusionerError(
            f"{file} has {count} objects of {len(categories)} categories, published are {published.objects} of "
            f"{published.categories}: unpack it again, or pass --partial if this is meant to be a part"
        )
    return rows, count


class Archive(Frozen):
    """A file that was unpacked. checked: which of size and digests were compared with the published ones."""

    name: str
    bytes: int
    sha256: str
    checked: str


class Manifest(Frozen):
    """The content of a prepared data set. Equal data give equal manifests: there is no date in it.

    linked: part to the folder that it is a link to. counts: files of each part (and COCO objects). published: the
    published counts. opened: how many images were opened. files: path under the root, with "/", to (bytes, sha256).
    """

    dataset: str
    title: str
    archives: tuple[Archive, ...]
    linked: dict[str, str]
    counts: dict[str, int]
    published: dict[str, int]
    opened: int
    files: dict[str, tuple[int, str]]

    def write(self, file: Path) -> None:
        """Write it as JSON, with one line for each of ``files``."""
        head = json.dumps(self.model_dump(exclude={"files"}), indent=1)
        rows = ",\n".join(f"  {json.dumps(path)}: {json.dumps(row)}" for path, row in sorted(self.files.items()))
        write_text(file, f'{head[:-2]},\n "files": {{\n{rows}\n }}\n}}\n')


def manifest_file(root: Path, name: str) -> Path:
    """The file of the manifest of data set ``name`` under ``root``."""
    return root / f"{name}.manifest.json"


def read_manifest(file: Path) -> Manifest | None:
    """The manifest in ``file``; None where there is no file. Raises FusionerError where it can't be read."""
    if not file.exists():
        return None
    try:
        return Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise FusionerError(f"{file} can't be read as a manifest: delete it, the next run writes it again") from error


def listing(root: Path, files: list[Path], *, quiet: bool = False) -> dict[str, tuple[int, str]]:
    """Path under ``root`` to (bytes, sha256), for each of ``files``."""
    sums = in_threads(lambda file: check(file, quiet=True), files, "summing", quiet=quiet)
    return {
        file.relative_to(root).as_posix(): (file.stat().st_size, sha256)
        for file, sha256 in zip(files, sums, strict=True)
    }


def compare(
    manifest: Mapping[str, tuple[int, str]], root: Path, files: list[Path], *, thorough: bool, quiet: bool = False
) -> None:
    """Compare ``files`` with their rows of a manifest: names and sizes; with ``thorough``, sha256 too.

    Raises FusionerError with the first files that are missing, new, of another size or altered, and the remedy.
    """
    present = {file.relative_to(root).as_posix(): file for file in files}
    problems = [f"{root / path} is missing" for path in manifest if path not in present]
    problems += [f"{file} is new" for path, file in present.items() if path not in manifest]
    for path, (size, _) in manifest.items():
        if path in present and present[path].stat().st_size != size:
            problems.append(f"{present[path]} has {present[path].stat().st_size} bytes instead of {size}")
    if thorough and not problems:
        found = listing(root, files, quiet=quiet)
        problems = [f"{root / path} is altered" for path, row in found.items() if row != tuple(manifest[path])]
    if problems:
        raise failure(
            [f"by the manifest {problem}" for problem in problems],
            remedy="delete the folder and run the command again to unpack it again, or delete the manifest to "
            "accept the files as they are",
        )
