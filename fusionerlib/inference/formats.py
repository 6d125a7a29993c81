"""Masks as data: index PNGs, COCO annotations, soft masks, and one table row a name; tables and COCO files of many."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Integer
from PIL import Image

from fusionerlib.datasets.formats.names import special, table_of
from fusionerlib.errors import FusionerError, writing
from fusionerlib.files import readable
from fusionerlib.inference.palette import LIMIT, palette
from fusionerlib.name_forms import form

if TYPE_CHECKING:
    from fusionerlib.inference.segmentation import Segmentation

Row = dict[str, Any]
SAVED = (".png", ".json", ".npz")
"""What ``Segmentation.save`` writes."""
COLUMNS = ("file", "name", "share", "left", "top", "width", "height", "mean", "max")
"""Of a table of many images; ``share``, ``mean`` and ``max`` are 0-1, the box is in pixels, empty without a pixel."""
ROWS = 2_000
"""Rows of a table that are written at once."""


def index_png(labels: Integer[np.ndarray, "height width"]) -> bytes:
    """``labels`` (0-254; 0 is background) as a palette PNG of the same size.

    The palette has the overlays' colours, background is black, and 255 (ignored in a data set) is white.
    Raises FusionerError for a label above 254.
    """
    if labels.size and labels.max() > LIMIT:
        raise FusionerError(f"label {labels.max()} does not fit into an 8-bit mask: ask for at most {LIMIT} names")
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette(bytes(3) + palette(LIMIT).tobytes() + b"\xff\xff\xff")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def names_text(names: Sequence[str]) -> str:
    """The ``names.txt`` of index masks: a line ``k name`` for each name, from 1, as ``read_folder`` reads it."""
    return "".join(f"{number} {' '.join(name.split())}\n" for number, name in enumerate(names, start=1))


def check_index_names(names: Sequence[str]) -> None:
    """Raise FusionerError for more names than an index mask has room for, and for one that is not read back from
    ``names_text``, such as "#cat".
    """
    if len(names) > LIMIT:
        raise FusionerError(f"{len(names)} names do not fit into an index mask of 8 bits: at most {LIMIT}")
    for name in names:
        try:
            read = "" if "\0" in name else table_of(names_text([name]), Path("names.txt")).names.get(1, "")
        except FusionerError:
            read = ""
        if special(name) is None and form(read) != form(name):
            raise FusionerError(
                f"name {name!r} would not be read back from names.txt (as {read!r}): ask for it without its signs, or "
                "choose formats without index"
            )


def table(result: "Segmentation") -> list[Row]:
    """One row a name, in the order of the names.

    name. share: of the image's pixels, 0-1. box: (left, top, width, height) of its mask in pixels, None without a
    pixel. mean: probability of the name, averaged over its mask, None without a pixel. max: its largest probability
    anywhere in the image, at the model's resolution.
    """
    labels, count = result.labels, len(result.names) + 1
    areas, sums = np.zeros(count, dtype=np.int64), np.zeros(count)
    for (
        part,
        probability,
    ) in result.best_probabilities():  # of the whole image numpy would make copies of 8 bytes a pixel
        areas += np.bincount(labels.reshape(-1)[part], minlength=count)
        sums += np.bincount(labels.reshape(-1)[part], weights=probability, minlength=count)
    largest = result.fine.flatten(1).amax(1).sigmoid().tolist()
    rows = []
    for number, name in enumerate(result.names, start=1):
        area = int(areas[number])
        rows.append(
            {
                "name": name,
                "share": area / labels.size,
                "box": box(labels == number) if area else None,
                "mean": float(sums[number]) / area if area else None,
                "max": float(largest[number - 1]),
            }
        )
    return rows


def box(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the True pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def soft_npz(result: "Segmentation") -> bytes:
    """Soft masks as a compressed npz: ``probabilities``, float16 (names, rows, columns), and ``names``, ``size``.

    Probabilities are at the model's resolution; ``size`` is the image's (height, width).
    """
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        probabilities=result.fine.float().sigmoid().numpy().astype(np.float16),
        names=np.array(result.names),
        size=np.array(result.image.shape[:2]),
    )
    return stream.getvalue()


def coco_annotations(result: "Segmentation", *, instances: bool = False) -> list[Row]:
    """COCO annotations without ids: one a name that has pixels, or one a connected part of its mask.

    ``category_id`` is k + 1 for name k; ``segmentation`` run lengths as pycocotools compresses them, which keep holes;
    ``bbox`` as ``box`` of ``table``; ``score`` the mean probability in the mask.
    instances: one annotation a part; pixels that touch at an edge or a corner are one part.
    Raises FusionerError where pycocotools, or for instances scipy, is not installed.
    """
    mask_api = _mask_api()
    found: list[Row] = []
    probability = result.best_probability
    for number in np.unique(result.labels[result.labels > 0]).tolist():
        whole = result.labels == number
        for mask in _parts(whole) if instances else [whole]:
            coded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
            found.append(
                {
                    "category_id": number,
                    "segmentation": {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": list(box(mask)),
                    "iscrowd": 0,
                    "score": round(float(probability[mask].mean()), 6),
                }
            )
    return found


def coco_categories(names: Sequence[str]) -> list[Row]:
    """COCO's categories: name k has the id k + 1."""
    return [{"id": number, "name": " ".join(name.split())} for number, name in enumerate(names, start=1)]


def coco(result: "Segmentation", *, file: str, instances: bool = False) -> Row:
    """A COCO file's content for one image, whose ``file_name`` is ``file``. See ``coco_annotations``."""
    height, width = result.image.shape[:2]
    annotations = [
        {"id": number, "image_id": 1, **row}
        for number, row in enumerate(coco_annotations(result, instances=instances), start=1)
    ]
    images = [{"id": 1, "file_name": file, "width": width, "height": height}]
    return {"images": images, "annotations": annotations, "categories": coco_categories(result.names)}


def encoded(result: "Segmentation", suffix: str, *, file: str) -> bytes:
    """The bytes of a file of ``SAVED``. Raises FusionerError for another suffix."""
    if suffix == ".png":
        return index_png(result.labels)
    if suffix == ".npz":
        return soft_npz(result)
    if suffix == ".json":
        return (json.dumps(coco(result, file=file)) + "\n").encode()
    raise FusionerError(
        f"masks can't be saved as {suffix!r}: write .png (indices and names), .json (COCO) or .npz (soft masks); "
        "for a picture use overlay().save(path)"
    )


def write_csv(place: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` of ``table``, each with its ``file``, as ``COLUMNS``."""
    with _whole(place, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_flat, rows))


def write_parquet(place: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` as ``write_csv`` does. Needs pyarrow."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {"file": pa.string(), "name": pa.string(), **dict.fromkeys(("left", "top", "width", "height"), pa.int32())}
    schema = pa.schema([(column, types.get(column, pa.float64())) for column in COLUMNS])
    flat = map(_flat, rows)
    with _whole(place, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(flat, ROWS)):
            columns = {column: [row[column] for row in group] for column in COLUMNS}
            writer.write_table(pa.table(columns, schema=schema))


def write_coco(place: Path, images: Callable[[], Iterable[Mapping[str, Any]]], names: Sequence[str]) -> None:
    """Write a COCO file piece by piece: the annotations of all images need not be in memory at once.

    images: iterates, twice, over each image's ``file``, ``size`` (height, width) and ``coco`` (annotations).
    """
    with _whole(place, "w", encoding="utf-8", newline="\n") as stream:
        stream.write('{"categories": ' + json.dumps(coco_categories(names)) + ',\n"images": [')
        for number, line in enumerate(images(), start=1):
            height, width = line["size"]
            image = {"id": number, "file_name": readable(Path(line["file"]).name), "width": width, "height": height}
            stream.write(("," if number > 1 else "") + "\n" + json.dumps(image))
        stream.write('],\n"annotations": [')
        count = 0
        for number, line in enumerate(images(), start=1):
            for row in line["coco"]:
                stream.write(("," if count else "") + "\n")
                count += 1
                stream.write(json.dumps({"id": count, "image_id": number, **row}))
        stream.write("]}\n")


@contextmanager
def _whole(place: Path, mode: str, encoding: str | None = None, newline: str | None = None) -> Iterator[IO[Any]]:
    """The opened file that becomes ``place`` once it is written."""
    part = place.with_name(f"{place.name}.part")
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with part.open(mode, encoding=encoding, newline=newline) as stream:
            yield stream
    part.replace(place)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    left, top, width, height = row["box"] or (None,) * 4
    return {**row, "left": left, "top": top, "width": width, "height": height}


def _parts(mask: Bool[np.ndarray, "height width"]) -> list[Bool[np.ndarray, "height width"]]:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise FusionerError("instances need scipy: pip install 'fusioner[data]'") from error
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return [parts == number for number in range(1, count + 1)]


def _mask_api() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise FusionerError("COCO files need pycocotools: pip install 'fusioner[data]'") from error
    return mask
