"""Predictions of many images into a folder: resumable, in shards, with a table and a record of how they were made.

names.txt  masks/STEM.png  images/STEM.jpg     index masks, in the layout that ``read_folder`` reads
masks/STEM.tif                                 index masks of rasters (``raster.is_raster``), the only format for them
annotations/instances.json                     COCO
overlays/STEM.jpg  soft/STEM.npz
predictions.parquet (or .csv)                  one row an image and name
failed.txt                                     images that could not be read, with the reason
run.json                                       settings, the checkpoint's digest, versions
records/part-1-of-1.jsonl                      what is done: a line an image, which a later call goes on from
"""

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusionerlib.digests import content_digests, file_digest, read_json, sealed, unsealed, write_json
from fusionerlib.errors import FusionerError, cannot_write, writing
from fusionerlib.files import exclusive, readable, write_text
from fusionerlib.inference.requests import WRITTEN, Settings, Shard
from fusionerlib.progress import ahead, bar
from fusionerlib.records import environment

if TYPE_CHECKING:
    from fusionerlib.inference.segmentation import Segmentation
    from fusionerlib.inference.segmenter import Segmenter

WRITERS = 2
"""Threads that encode and write results while the next images are segmented."""

Written = tuple[Path, dict[str, Any] | FusionerError]
"""A file, and its record once its results are written, or why it has none."""


@dataclass(frozen=True)
class Done:
    """What a call left: images with results (``kept`` of them from earlier calls), and (file, reason) of the others.

    squeezed: the panoramas that this call resized to a square.
    """

    images: int
    kept: int
    failed: tuple[tuple[str, str], ...]
    squeezed: int = 0


def unique_stems(files: Sequence[Path]) -> None:
    """Raise FusionerError where two files have one stem, which would share a mask."""
    seen: dict[str, Path] = {}
    for file in files:
        if other := seen.get(file.stem.casefold()):
            raise FusionerError(f"{other} and {file} would share one mask: rename one, or predict them separately")
        seen[file.stem.casefold()] = file


def predict_into(
    out: Path,
    segmenter: "Segmenter | None",
    files: Sequence[Path],
    settings: Settings,
    *,
    shard: Shard | None = None,
    quiet: bool = False,
) -> Done:
    """Predict those of ``files`` that have no result in ``out`` yet, and write the table and the COCO file.

    segmenter: of ``settings``; None where ``remaining`` found nothing left to do.
    shard: predict this part only and leave the table to a later call without ``shard``, which goes through all parts.
    A call that was interrupted at any point and is repeated leaves the same bytes as one that was not.
    Raises FusionerError where ``out`` holds predictions of other settings, and where another process writes this part.
    """
    unique_stems(files)
    part = shard or Shard()
    _start(out, files, settings)
    records = out / "records" / f"{part.title}.jsonl"
    with exclusive(out / "records" / f"{part.title}.lock", f"predicting {part.title} into {out}"):
        failed: list[tuple[str, str]] = []
        panoramas = 0
        left = _left(out, files, shard)
        _drop_torn_files(out, left)
        if left and segmenter is not None:
            mine = len(files[part.number - 1 :: part.of])
            with bar("predict", total=mine, done=mine - len(left), unit="image", quiet=quiet) as shown:
                for file, reason, squeezed in _predicted(out, segmenter, left, settings, records, quiet=quiet):
                    shown.update()
                    panoramas += squeezed
                    if reason:
                        failed.append((file, reason))
        title = "failed.txt" if shard is None else f"failed-{part.title}.txt"
        _list_failures(out / title, failed)
        if shard is None:
            _collect(out, files, settings)
    done = len(files[part.number - 1 :: part.of]) - len(failed)
    return Done(images=done, kept=done - (len(left) - len(failed)), failed=tuple(failed), squeezed=panoramas)


def remaining(out: Path, files: Sequence[Path], settings: Settings, *, shard: Shard | None = None) -> list[Path]:
    """Those of ``files`` (of this shard) without a result in ``out``; makes ``out`` with its ``run.json``.

    A file that holds something else by now has none, which is said on stderr. Raises FusionerError where ``out`` holds
    predictions of other settings.
    """
    _start(out, files, settings)
    return _left(out, files, shard)


def _left(out: Path, files: Sequence[Path], shard: Shard | None) -> list[Path]:
    part = shard or Shard()
    # Without a shard all parts count, so that one call puts together what many machines did.
    titles = "*.jsonl" if shard is None else f"{part.title}.jsonl"
    done: dict[str, str] = {}
    for records in sorted((out / "records").glob(titles)):
        found = [(file, digest) for file, digest, _, _ in _offsets(records)]
        with records.open("rb") as stream:
            damaged = sum(line.endswith(b"\n") for line in stream) - len(found)
        if damaged:
            print(f"{records}: {damaged} damaged lines, whose images are predicted again", file=sys.stderr)
        done.update(found)
    mine = files[part.number - 1 :: part.of]
    present = [file for file in mine if file.as_posix() in done and file.is_file()]
    now = {file: digest for file, digest in zip(present, content_digests(present), strict=True)}
    changed = [file for file, digest in now.items() if digest != done[file.as_posix()]]
    if changed:
        print(f"{len(changed)} images changed since and are predicted again, {changed[0]} first", file=sys.stderr)
    again = set(changed)
    return [file for file in mine if file.as_posix() not in done or file in again]


def _start(out: Path, files: Sequence[Path], settings: Settings) -> None:
    record, place = settings.record(), out / "run.json"
    fresh = not place.is_file()
    # Another machine may have begun this prediction in between.
    if (taken := _taken(out, files, settings, fresh=fresh)) and not (fresh and place.is_file()):
        raise FusionerError(f"{taken}: choose another folder with -o")
    if place.is_file():
        remedy = f"choose another folder with -o, or delete {out}"
        kept = read_json(place, what="the record of a prediction", remedy=remedy)
        try:
            before = {key: kept[key] for key in record}
        except KeyError as error:
            raise FusionerError(f"{place} can't be read ({error!r}): {remedy}") from error
        if differing := _differences(before, record):
            raise FusionerError(
                f"{out} holds predictions of other settings ({', '.join(differing)}): choose another folder with -o, "
                "or delete this one"
            )
    else:
        write_json(place, {**record, "environment": environment()})
    with writing(out):
        (out / "records").mkdir(parents=True, exist_ok=True)
    if "index" in settings.formats:
        from fusionerlib.inference.formats import names_text

        write_text(out / "names.txt", names_text(settings.names))


def _taken(out: Path, files: Sequence[Path], settings: Settings, *, fresh: bool) -> str:
    """What the results would replace that is not of this prediction; "" for nothing. fresh: it has not begun yet."""
    places = [out / name for form in settings.formats for name in WRITTEN[form]]
    sources = {folder.resolve() for folder in {file.parent for file in files}}
    if inside := [place for place in places if place.resolve() in sources]:
        return f"the images lie in {inside[0]}, where the results would replace them"
    if not fresh:
        return ""
    there = [place for place in places if place.is_file() or (place.is_dir() and any(place.iterdir()))]
    if settings.images != "none" and not there and (out / "images").is_dir():
        images = [(file, out / "images" / file.name) for file in files if file.is_file()]
        there = [image for file, image in images if image.exists() and not _same(file, image)]
    return f"{there[0]} is there, and not of an earlier call: the results would replace it" if there else ""


def _same(file: Path, other: Path) -> bool:
    return other.samefile(file) or (other.is_file() and file_digest(other) == file_digest(file))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # A checkpoint is known by its digest: its path may be spelt in several ways.
    kept = before["settings"]
    settings = [key for key, value in now["settings"].items() if key != "checkpoint" and kept.get(key) != value]
    return settings + [key for key in now if key != "settings" and before[key] != now[key]]


def _predicted(
    out: Path,
    segmenter: "Segmenter",
    files: Sequence[Path],
    settings: Settings,
    records: Path,
    *,
    quiet: bool = False,
) -> Iterator[tuple[str, str, bool]]:
    """Segment and write ``files``; yields each file, "" when its files are written or the reason why not, and whether
    it is a panorama that was squeezed.

    In their order, but rasters come after all others.
    """
    from fusionerlib.devices import thread_pool
    from fusionerlib.inference.raster import is_raster

    rasters = {file: None for file in files if is_raster(file, sliding=settings.sliding)}
    pictures = [file for file in files if file not in rasters]
    results = segmenter.predict(pictures, settings.names, threshold=settings.threshold, background=settings.background)

    def write(answer: "tuple[Path, Segmentation | FusionerError]") -> Written:
        file, result = answer
        return file, result if isinstance(result, FusionerError) else _write(out, file, result, settings)

    def write_raster(file: Path) -> Written:
        try:
            return file, _write_raster(out, file, segmenter, settings, quiet=quiet)
        except FusionerError as error:
            return file, error

    _drop_torn_line(records)
    with thread_pool(WRITERS, threads=1) as pool, records.open("ab") as stream:
        pictured = ahead(write, results, pool=pool, most=2 * WRITERS + 1)
        for file, record in chain(pictured, map(write_raster, rasters)):
            if isinstance(record, FusionerError):
                yield file.as_posix(), str(record), False
                continue
            # The line comes after the files, in the order of the images: what is listed is whole.
            try:
                stream.write(json.dumps(sealed(record), separators=(",", ":")).encode() + b"\n")
                stream.flush()
            except OSError as error:
                raise cannot_write(out, error) from error
            yield file.as_posix(), "", file not in rasters and bool(segmenter.image_notes(tuple(record["size"])))


def _write_raster(out: Path, file: Path, segmenter: "Segmenter", settings: Settings, *, quiet: bool) -> dict[str, Any]:
    """Segment a raster and write its mask; returns its record."""
    if settings.formats != ("index",):
        raise FusionerError(
            f"{file} is a raster, for which only index masks are written: predict it by --format index into a folder "
            "of its own"
        )
    digest = file_digest(file)
    found = segmenter.segment_raster(
        file,
        out / "masks" / f"{file.stem}.tif",
        settings.names,
        threshold=settings.threshold,
        background=settings.background,
        quiet=quiet,
    )
    if settings.images != "none":
        _place(file, out / "images" / file.name, copy=settings.images == "copy")
    return {"file": file.as_posix(), "photo": digest, "size": [found.height, found.width], "rows": found.table()}


def _write(out: Path, file: Path, result: "Segmentation", settings: Settings) -> dict[str, Any]:
    """Write the files of one result; returns its record."""
    from fusionerlib.files import write_bytes
    from fusionerlib.inference import formats

    height, width = result.image.shape[:2]
    record: dict[str, Any] = {"file": file.as_posix(), "photo": file_digest(file), "size": [height, width]}
    record["rows"] = formats.table(result)
    if "index" in settings.formats:
        write_bytes(out / "masks" / f"{file.stem}.png", formats.index_png(result.labels))
    if "overlay" in settings.formats:
        stream = io.BytesIO()
        result.overlay().save(stream, "JPEG", quality=90)
        write_bytes(out / "overlays" / f"{file.stem}.jpg", stream.getvalue())
    if "soft" in settings.formats:
        write_bytes(out / "soft" / f"{file.stem}.npz", formats.soft_npz(result))
    if "coco" in settings.formats:
        record["coco"] = formats.coco_annotations(result, instances=settings.instances)
    if settings.images != "none" and {"index", "coco"} & set(settings.formats):
        _place(file, out / "images" / file.name, copy=settings.images == "copy")
    return record


def _place(file: Path, target: Path, *, copy: bool) -> None:
    if target.exists() and _same(file, target):
        return
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        linked = False
        if not copy:
            with suppress(OSError):  # no links on this disk or for this user: a copy serves as well
                part.symlink_to(file.resolve())
                linked = True
        if not linked:
            shutil.copyfile(file, part)
        part.replace(target)


def _offsets(records: Path) -> Iterator[tuple[str, str, int, int]]:
    """(file, its digest, start, length) of each line of a record file that is whole."""
    with records.open("rb") as stream:
        start = 0
        for line in stream:
            with suppress(ValueError, KeyError, RecursionError):  # damaged, or the last one of a killed call
                if line.endswith(b"\n"):
                    kept = unsealed(line.decode(), required=True)
                    yield kept["file"], kept["photo"], start, len(line)
            start += len(line)


def _drop_torn_line(records: Path) -> None:
    """Cut off a last line that was interrupted."""
    if not records.is_file():
        return
    with records.open("rb") as stream:
        lines = [len(line) for line in stream if line.endswith(b"\n")]
    os.truncate(records, sum(lines))


def _drop_torn_files(out: Path, left: Sequence[Path]) -> None:
    """Delete what a killed call had begun to write of ``left``; other parts' files may be in work on other machines."""
    stems = {file.stem for file in left}
    for folder in ("masks", "overlays", "soft", "images"):
        for torn in (out / folder).glob("*.part"):
            # STEM.png.PID.part, see write_bytes.
            if torn.name.rsplit(".", 3)[0] in stems:
                torn.unlink(missing_ok=True)


def _list_failures(place: Path, failed: Sequence[tuple[str, str]]) -> None:
    if failed:
        write_text(place, "".join(f"{file}\t{' '.join(reason.split())}\n" for file, reason in failed))
    else:
        place.unlink(missing_ok=True)


def _collect(out: Path, files: Sequence[Path], settings: Settings) -> None:
    """Write the table and the COCO file of all parts' records, in the order of ``files``, a line at a time."""
    from fusionerlib.inference import formats

    places = {
        file: (records, start, length)
        for records in sorted((out / "records").glob("*.jsonl"))
        for file, _, start, length in _offsets(records)
    }

    def lines() -> Iterator[dict[str, Any]]:
        for file in files:
            if place := places.get(file.as_posix()):
                with place[0].open("rb") as stream:
                    stream.seek(place[1])
                    yield json.loads(stream.read(place[2]))

    rows = ({"file": readable(line["file"]), **row} for line in lines() for row in line["rows"])
    if find_spec("pyarrow") is not None:
        formats.write_parquet(out / "predictions.parquet", rows)
    else:
        formats.write_csv(out / "predictions.csv", rows)
    if "coco" in settings.formats:
        formats.write_coco(out / "annotations" / "instances.json", lines, settings.names)
