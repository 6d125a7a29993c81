"""Rasters: TIFF images too large for memory, read and answered tile by tile with sliding windows.

Only the format and the reading are tifffile's; the windows, their logits and the decision are those of smaller images,
so a raster that fits into memory gets the same labels to the last pixel.
"""

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image
from torch import Tensor

from fusionerlib.errors import FusionerError, cannot_write
from fusionerlib.images import read_image
from fusionerlib.inference.formats import Row, box
from fusionerlib.inference.palette import LIMIT, palette
from fusionerlib.inference.requests import Edges, Threshold
from fusionerlib.inference.segmentation import Segmentation, best_names
from fusionerlib.inference.windows import corners, logit_tiles
from fusionerlib.progress import bar, size_text

if TYPE_CHECKING:
    from fusionerlib.encoders.base import VisualEncoder
    from fusionerlib.models.base import SegmentationModel

SUFFIXES = (".tif", ".tiff")
SLIDING_PIXELS = 4096 * 4096
"""A TIFF with more pixels is a raster where sliding windows are asked for: K full maps would take 64 MiB a name."""
SIDE = 256
"""Of the tiles that are written, and the rows that are read at once from a file without tiles."""
MOST_BYTES = 2**28
"""Of one tile or strip of a file that is read; a compressed one must be in memory as a whole."""
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
"""TIFF tags that say where on Earth a pixel lies (GeoTIFF 1.1); the mask gets those of the image."""


def is_raster(path: Path, *, sliding: bool = False) -> bool:
    """Whether ``path`` is a TIFF that has to be segmented as a raster: too large to be opened as a picture (179 million
    pixels, Pillow's limit), or with ``sliding`` larger than ``SLIDING_PIXELS``.

    False for files that can't be read. Raises FusionerError for such a TIFF where tifffile is not installed.
    """
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    most = SLIDING_PIXELS if sliding else 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:  # the header alone
            pixels = opened.width * opened.height
    except Image.DecompressionBombError:
        pixels = most + 1
    except Exception:
        return _pixels(path) > most
    if pixels > most:
        _tifffile()
    return pixels > most


class Raster:
    """A TIFF image read by parts: ``raster[top:bottom, left:right]`` is uint8 RGB on ``device``, as ``read_image``
    gives it, cut at the image's edges. A context manager.

    8 or 16 bits (of which the upper 8 count), grey, palette or RGB; transparency is put on white, and other channels
    after these are left out. Compressed files need tiles or strips of at most ``MOST_BYTES``. The tiles of some rows
    are kept: read from the top to the bottom.
    height, width: in pixels. Raises FusionerError for a file that can't be read so.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> None:
        self.path, self._device = Path(path), torch.device(device)
        if not self.path.is_file():
            raise FusionerError(f"image {os.fspath(path)!r} is not a file (looked in {Path.cwd()}): check the path")
        tifffile = _tifffile()
        try:
            self._file = tifffile.TiffFile(self.path)
            try:
                if not len(self._file.pages) or not self._file.pages[0].imagelength * self._file.pages[0].imagewidth:
                    raise FusionerError(f"{path} can't be read as TIFF (it holds no image): export it anew")
                self._page = self._file.pages[0]
                self._check(tifffile)
            except BaseException:
                self._file.close()
                raise
        except FusionerError:
            raise
        except Exception as error:  # a damaged tag fails in many ways
            reason = f"{type(error).__name__}: {error}"
            raise FusionerError(f"{path} can't be read as TIFF ({reason}): export it anew") from error
        self.height, self.width = int(self._page.imagelength), int(self._page.imagewidth)
        # Without compression any rows can be read; else a row of tiles, or a strip, at once.
        self._plain = bool(self._page.is_contiguous) and not self._page.is_tiled
        tiled = self._page.tilelength if self._page.is_tiled else self._page.rowsperstrip
        self._step = SIDE if self._plain else int(min(tiled, self.height))
        self._bands: OrderedDict[int, np.ndarray] = OrderedDict()

    def _check(self, tifffile: Any) -> None:
        page, kind = self._page, tifffile.PHOTOMETRIC
        known = {kind.MINISBLACK, kind.MINISWHITE, kind.RGB, kind.PALETTE, kind.YCBCR}
        colours = 3 if page.photometric in (kind.RGB, kind.YCBCR) else 1
        fits = page.photometric in known and page.dtype in (np.uint8, np.uint16)
        if not fits or not colours <= page.samplesperpixel <= (2 if colours == 1 else 16):
            raise FusionerError(
                f"{self.path} has {page.samplesperpixel} channels of {page.dtype}, {page.photometric.name}: expected "
                "grey, palette or RGB in 8 or 16 bits; convert it, for example by "
                "`gdal_translate -b 1 -b 2 -b 3 -ot Byte -scale -co PHOTOMETRIC=RGB -co TILED=YES`"
            )
        if page.bitspersample not in (8, 16) or getattr(page, "imagedepth", 1) != 1:
            raise FusionerError(f"{self.path} has {page.bitspersample} bits a channel: convert it to 8 or 16")
        if page.tags.valueof(274, 1) != 1:
            raise FusionerError(f"{self.path} is stored turned (its tag Orientation): save it upright")
        chunk = int(np.prod(page.chunks)) * page.dtype.itemsize
        if chunk > MOST_BYTES and not (page.is_contiguous and not page.is_tiled):
            raise FusionerError(
                f"{self.path} is compressed in pieces of {size_text(chunk)}, each of which must be in memory as a "
                "whole: save it in tiles, for example by `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE`"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def __getitem__(self, area: tuple[slice, slice], /) -> UInt8[Tensor, "rows columns 3"]:
        top, bottom, _ = area[0].indices(self.height)
        numbers = range(top // self._step, -(-bottom // self._step))
        parts = [self._band(number)[:, area[1]] for number in numbers]
        start = numbers.start * self._step
        joined = np.concatenate(parts)[top - start : bottom - start]
        while len(self._bands) > len(numbers) + 1:
            self._bands.popitem(last=False)
        return torch.from_numpy(np.ascontiguousarray(joined)).to(self._device)

    def _band(self, number: int) -> UInt8[np.ndarray, "rows {self.width} 3"]:
        """``_step`` rows from row ``number * _step``, or those up to the last row."""
        if number not in self._bands:
            try:
                self._bands[number] = self._rgb(self._read(number))
            except FusionerError:
                raise
            except Exception as error:  # codecs raise errors of many types
                remedy = "export it anew"
                if isinstance(error, ImportError) or "imagecodecs" in str(error):
                    remedy = "pip install imagecodecs, or save it with DEFLATE compression"
                raise FusionerError(f"{self.path} can't be read ({error}): {remedy}") from error
        self._bands.move_to_end(number)
        return self._bands[number]

    def _read(self, number: int) -> np.ndarray:
        """The samples of a band, (rows, columns, channels), as they are stored."""
        page, top = self._page, number * self._step
        rows, planes = min(self._step, self.height - top), page.samplesperpixel if page.planarconfig == 2 else 1
        samples = page.samplesperpixel // planes
        band = np.zeros((rows, self.width, page.samplesperpixel), page.dtype)
        stream = self._file.filehandle
        if self._plain:
            line = self.width * samples * page.dtype.itemsize
            for plane in range(planes):
                stream.seek(page.dataoffsets[0] + (plane * self.height + top) * line)
                content = np.frombuffer(stream.read(rows * line), page.dtype.newbyteorder(self._file.byteorder))
                band[..., plane * samples : (plane + 1) * samples] = content.reshape(rows, self.width, samples)
            return band
        across = -(-self.width // page.tilewidth) if page.is_tiled else 1
        down = -(-self.height // self._step)
        for plane in range(planes):
            for index in range((plane * down + number) * across, (plane * down + number + 1) * across):
                if not page.databytecounts[index]:
                    continue  # a tile that was never written is 0
                stream.seek(page.dataoffsets[index])
                content = stream.read(page.databytecounts[index])
                segment, (_, _, _, left, _), _ = page.decode(content, index, jpegtables=page.jpegtables)
                part = segment[0, :rows, : self.width - left]
                channels = slice(plane, plane + 1) if planes > 1 else slice(None)
                band[: part.shape[0], left : left + part.shape[1], channels] = part
        return band

    def _rgb(self, band: np.ndarray) -> np.ndarray:
        page = self._page
        if page.photometric.name == "PALETTE":
            return (page.colormap >> 8).astype(np.uint8).T[band[..., 0]]
        if band.dtype == np.uint16:
            band = (band >> 8).astype(np.uint8)
        if page.photometric.name == "MINISWHITE":
            band = 255 - band
        if page.photometric.name in ("MINISWHITE", "MINISBLACK"):
            return read_image(np.ascontiguousarray(band[..., 0]))
        transparent = page.samplesperpixel == 4 and page.extrasamples and int(page.extrasamples[0]) in (1, 2)
        return read_image(np.ascontiguousarray(band[..., : 4 if transparent else 3]))

    @property
    def georeference(self) -> list[tuple[int, int, int, Any, bool]]:
        """The tags of ``GEOREFERENCE`` that the file has, as tifffile writes them."""
        tags = [self._page.tags[code] for code in GEOREFERENCE if code in self._page.tags]
        return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in tags]


@dataclass(frozen=True)
class RasterResult:
    """What ``segment_raster`` found. rows: as ``Segmentation.table`` gives them, of the whole raster."""

    names: tuple[str, ...]
    height: int
    width: int
    rows: list[Row]

    def table(self) -> list[Row]:
        """One row a name: name, share (0-1), box (left, top, width, height), mean and max probability."""
        return self.rows


def segment_raster(
    source: Path,
    target: Path,
    *,
    model: "SegmentationModel",
    visual: "VisualEncoder",
    text_tokens: Tensor,
    names: Sequence[str],
    threshold: Threshold,
    background: bool,
    window: int,
    stride: int,
    edges: Edges = "bilinear",
    quiet: bool = False,
) -> RasterResult:
    """Segment the TIFF ``source`` by sliding windows into the index mask ``target``; see ``Segmenter.segment_raster``.

    names, threshold: checked ones. Memory beside the model: 4 bytes a name for each pixel of ``window - stride`` rows,
    and some rows of the image.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise FusionerError(f"{target} is no name of a TIFF: give one that ends in .tif")
    if len(names) > LIMIT:
        raise FusionerError(f"{len(names)} names do not fit into an index mask of 8 bits: at most {LIMIT}")
    with Raster(source, device=text_tokens.device) as raster:
        if target.exists() and target.samefile(source):
            raise FusionerError(f"the mask would replace its image {source}: give another file")
        total = _Total(names, raster.height, raster.width)
        count = len(corners(raster.height, raster.width, window=window, stride=stride))

        def rows() -> Iterator[UInt8[np.ndarray, "rows columns"]]:
            """The labels, some rows at a time, from the top."""
            labels = np.zeros((0, raster.width), np.uint8)
            tiles = logit_tiles(
                model,
                visual,
                raster,
                text_tokens,
                height=raster.height,
                width=raster.width,
                window=window,
                stride=stride,
                edges=edges,
            )
            with bar(source.name, total=count, unit="window", quiet=quiet) as shown:
                for top, left, logits in tiles:
                    if left == 0 and len(labels):
                        yield labels
                    if left == 0:
                        labels = np.zeros((logits.shape[1], raster.width), np.uint8)
                    size = logits.shape[1:]
                    best, winner = best_names(logits, size)
                    found = Segmentation(
                        names=tuple(names),
                        image=np.empty((*size, 3), np.uint8),
                        coarse=logits,
                        best=best,
                        winner=winner,
                        threshold=threshold,
                        background=background,
                    )
                    labels[:, left : left + size[1]] = found.labels
                    total.add(top, left, found)
                    shown.update()
            yield labels

        _write(target, rows(), raster)
    return RasterResult(tuple(names), raster.height, raster.width, total.rows())


class _Total:
    """The rows of ``formats.table``, gathered tile by tile."""

    def __init__(self, names: Sequence[str], height: int, width: int) -> None:
        self.names, self.pixels = names, height * width
        self.areas, self.sums = np.zeros(len(names) + 1, np.int64), np.zeros(len(names) + 1)
        self.largest = torch.full((len(names),), -torch.inf)
        self.boxes: dict[int, tuple[int, int, int, int]] = {}

    def add(self, top: int, left: int, found: Segmentation) -> None:
        labels: Int32[np.ndarray, "rows columns"] = found.labels
        areas = np.bincount(labels.ravel(), minlength=len(self.areas))
        self.areas += areas
        self.sums += np.bincount(labels.ravel(), found.best_probability.ravel(), minlength=len(self.areas))
        self.largest = torch.maximum(self.largest, found.coarse.flatten(1).amax(1))
        for number in (np.flatnonzero(areas[1:]) + 1).tolist():
            x, y, width, height = box(labels == number)
            x, y = x + left, y + top
            edges = self.boxes.get(number, (x, y, x + width, y + height))
            self.boxes[number] = (
                min(edges[0], x), min(edges[1], y), max(edges[2], x + width), max(edges[3], y + height),
            )  # fmt: skip

    def rows(self) -> list[Row]:
        rows: list[Row] = []
        for number, (name, largest) in enumerate(
            zip(self.names, self.largest.sigmoid().tolist(), strict=True), start=1
        ):
            area, edges = int(self.areas[number]), self.boxes.get(number)
            row: Row = {"name": name, "share": area / self.pixels, "box": None, "mean": None, "max": largest}
            if edges:
                row["box"] = (edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1])
                row["mean"] = float(self.sums[number]) / area
            rows.append(row)
        return rows


def _write(target: Path, rows: Iterator[np.ndarray], raster: Raster) -> None:
    """A tiled palette TIFF, compressed without loss, in the colours of the overlays; replaces ``target`` when done."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), palette(LIMIT), np.full((1, 3), 255, np.uint8)])
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tifffile().imwrite(
            part,
            data=_tiles(rows, raster.width),
            shape=(raster.height, raster.width),
            dtype=np.uint8,
            tile=(SIDE, SIDE),
            photometric="palette",
            colormap=colours.T.astype(np.uint16) * 257,
            compression="zlib",
            extratags=raster.georeference,
            metadata=None,
            software=False,
            maxworkers=1,
        )
        part.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _tiles(rows: Iterator[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Tiles of ``SIDE``, row by row; those at the right and lower edges are filled up with 0."""
    waiting = np.zeros((0, width), np.uint8)
    ended = False
    while not ended:
        while len(waiting) < SIDE and not ended:
            more = next(rows, None)
            ended = more is None
            waiting = waiting if more is None else np.concatenate([waiting, more])
        while len(waiting) >= SIDE or (ended and len(waiting)):
            band, waiting = waiting[:SIDE], waiting[SIDE:]
            for left in range(0, width, SIDE):
                tile = np.zeros((SIDE, SIDE), np.uint8)
                part = band[:, left : left + SIDE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _pixels(path: Path) -> int:
    """The pixels of a TIFF that Pillow can't open (BigTIFF, 16 bits RGB); 0 where tifffile can't either."""
    try:
        with _tifffile().TiffFile(path) as file:
            return int(file.pages[0].imagelength) * int(file.pages[0].imagewidth)
    except Exception:
        return 0


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise FusionerError("large TIFF images need tifffile: pip install 'fusioner[data]'") from error
    return tifffile
