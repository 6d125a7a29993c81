"""Reading an image from a file, a Pillow image or an array."""

import os
import re
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fusionerlib.errors import FusionerError

BAND = 1024
"""Rows that are copied out of a Pillow image at once."""
JPEG = b"\xff\xd8\xff"
"""The first bytes of every JPEG file."""
PIXEL_LIMIT = 2 * 89_478_485
"""Most pixels of an image, which is Pillow's limit too; decoded, they take half a gigabyte."""
ALLOW_LARGE = "FUSIONER_ALLOW_LARGE"
"""The environment variable that lifts the limit, so that worker processes know of it too."""
_UNLIMITED = threading.Lock()
ORIENTATION = 0x0112
"""EXIF's tag."""
_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes an orientation."""
_PNG_MARKS = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
"""What a PNG with an orientation holds."""
ImageLike = Image.Image | np.ndarray | str | os.PathLike[str]


def allow_large() -> None:
    """Read images of any number of pixels from now on, in this process and in those that it starts."""
    os.environ[ALLOW_LARGE] = "1"


def open_image(source: Path | BytesIO, name: str) -> Image.Image:
    """An image file, opened by Pillow and not decoded, for every reader: none decodes before its size is known.

    name: of the image, for messages. Raises FusionerError for more than ``PIXEL_LIMIT`` pixels, unless ``allow_large``
    was called; Pillow's errors where it is no image.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():  # a pipe would be waited for
        raise FusionerError(f"{name} is not a file: put a picture there, or take it out")
    if os.environ.get(ALLOW_LARGE):
        with _UNLIMITED:
            most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(source)
            finally:
                Image.MAX_IMAGE_PIXELS = most
    try:
        opened = Image.open(source)
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_large(name, f"{int(found[1]):,} pixels" if found else "too many pixels") from error
    _check_size(opened, name)
    return opened


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > PIXEL_LIMIT and not os.environ.get(ALLOW_LARGE):
        raise _too_large(name, f"{image.width}x{image.height} pixels")


def _too_large(name: str, size: str) -> FusionerError:
    return FusionerError(
        f"{name} has {size}, and at most {PIXEL_LIMIT:,} are read, as a small file can claim any size: shrink it, or "
        "if it is meant and the memory is there, pass --allow-large (in Python `fusionerlib.images.allow_large()`)"
    )


def read_image(image: Any, *, upright: bool = True) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of ``image`` (``ImageLike``) as RGB, 0-255.

    EXIF orientation is applied, unless ``upright`` is False; transparent pixels are blended with white. Of 16 bits a
    channel the upper 8 are kept; whole numbers of 32 bits count as 16 if one is above 255.
    Raises FusionerError for a missing or unreadable file, another type, more than ``PIXEL_LIMIT`` pixels, pixels of
    floating point, and an array that is not uint8 of shape (height, width), (height, width, 3) or (height, width, 4).
    """
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if isinstance(image, Image.Image):
        _check_size(image, "the Pillow image")
        return _decoded(
            lambda: _rgb(image, upright), "the Pillow image", "open it again, and use it before it is closed"
        )
    if not isinstance(image, str | os.PathLike):
        raise FusionerError(
            f"a {type(image).__name__} is no image: pass a Pillow image, a uint8 array or a path"
            + ("; Pillow opens files and streams of bytes (PIL.Image.open)" if hasattr(image, "read") else "")
        )
    shown = repr(image)
    try:
        shown = repr(os.fspath(image))
        there, content = Path(image).is_file(), b""
        content = Path(image).read_bytes() if there else b""
    except (OSError, ValueError, TypeError) as error:
        raise FusionerError(f"image {shown} can't be opened ({error}): check the path") from error
    if not there:
        raise FusionerError(f"image {shown} is not a file (looked in {Path.cwd()}): check the path")

    def read() -> np.ndarray:
        with open_image(BytesIO(content), f"image {shown}") as opened:
            # torchvision takes seconds to import, and its decoder is only quicker: it serves where it is loaded anyway.
            pixels = _jpeg(content, upright) if content.startswith(JPEG) and "torchvision" in sys.modules else None
            return _rgb(opened, upright) if pixels is None else pixels

    return _decoded(read, f"image {shown}", "open and save it anew as JPEG or PNG")


def _of_array(array: np.ndarray) -> np.ndarray:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype == np.uint8 and shaped and array.size:
        return _rgb(Image.fromarray(np.ascontiguousarray(array)))
    remedy = ""
    if array.size and array.dtype == np.uint16:
        remedy = "; of 16 bits a channel, (array // 257).astype(np.uint8)"
    elif array.size and array.dtype.kind == "f":
        remedy = "; of values 0-1, (array * 255).round().astype(np.uint8)"
    elif array.ndim == 3 and array.shape[2] == 1:
        remedy = "; of one channel, array[:, :, 0]"
    elif array.ndim == 3 and array.shape[0] in (3, 4):
        remedy = "; with the channels first, array.transpose(1, 2, 0)"
    raise FusionerError(
        f"an array of shape {array.shape} and type {array.dtype} is no image: expected uint8, 0-255, of shape "
        f"(height, width), (height, width, 3) or (height, width, 4){remedy}"
    )


def _decoded(read: Callable[[], np.ndarray], name: str, remedy: str) -> np.ndarray:
    """What ``read`` gives. Raises FusionerError for whatever it raises."""
    try:
        return read()
    except FusionerError:
        raise
    except MemoryError as error:
        raise FusionerError(f"{name} does not fit into memory: shrink it") from error
    # Pillow's parsers raise errors of many types; all of them mean that the file can't be read.
    except Exception as error:
        # Pillow's message holds the address of our buffer, which differs from run to run.
        reason = re.sub(r" <_io\.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        raise FusionerError(f"{name} can't be read ({reason}): {remedy}") from error


class Header(NamedTuple):
    """Of an image file: height and width as its pixels are stored, its EXIF orientation (1 to 8; 1 is upright), and how
    many pages or frames it has."""

    height: int
    width: int
    orientation: int
    pages: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) with the orientation applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(file: Path) -> Header:
    """The header of an image file; its pixels are not decoded. Raises FusionerError where it is no image."""
    try:
        with open_image(file, f"image {str(file)!r}") as opened:
            width, height = opened.size
            pages, turned = pages_of(opened), opened.format == "TIFF"
            # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
            marked = opened.format != "PNG" or any(mark in file.read_bytes() for mark in _PNG_MARKS)
            orientation = opened.getexif().get(ORIENTATION, 1) if marked else 1
    except FusionerError:
        raise
    # Pillow's parsers raise errors of many types.
    except Exception as error:
        raise FusionerError(f"image {str(file)!r} can't be read ({type(error).__name__}): copy it again") from error
    if turned and orientation in range(5, 9):
        height, width = width, height  # Pillow gives the size as shown
    return Header(height, width, orientation if orientation in range(1, 9) else 1, pages)


def pages_of(image: Image.Image) -> int:
    """How many pages or frames an opened file has that show something of their own: no previews, no second lens."""
    count = getattr(image, "n_frames", 1) if image.format in ("TIFF", "PNG", "GIF", "WEBP") else 1
    if count == 1 or image.format != "TIFF":
        return count
    pages = 0
    for place in range(min(count, 1000)):
        image.seek(place)
        # Bits 0 and 2 of NewSubfileType: a smaller version of another page, and a mask of transparency.
        pages += not int(image.getexif().get(254, 0)) & 5
    image.seek(0)
    return pages


def _jpeg(content: bytes, upright: bool) -> np.ndarray | None:
    """The pixels of a JPEG; None for CMYK, which Pillow reads.

    torchvision's decoder gives the same pixels as Pillow's in two thirds of the time.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    # bytearray, because torch warns about memory that is read-only.
    coded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    decoded = decode_jpeg(coded, mode=ImageReadMode.UNCHANGED, apply_exif_orientation=upright)
    if len(decoded) not in (1, 3):
        return None
    return np.ascontiguousarray(decoded.expand(3, -1, -1).permute(1, 2, 0).numpy())


def _rgb(image: Image.Image, turn: bool = True) -> np.ndarray:
    if not image.width * image.height:
        raise FusionerError(f"an image of {image.width}x{image.height} pixels has none: check how it was made")
    if turn:
        image.load()
        # exif_transpose copies what it has not to turn.
        upright = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
    else:
        upright = _as_stored(image)
    if upright.mode.startswith("I;16"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    elif upright.mode == "I":
        upright = Image.fromarray(_eight_bits(np.asarray(upright)))
    elif upright.mode == "F":
        raise FusionerError("an image of floating-point pixels has no known range: scale it to 0-255 and 8 bits first")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if upright.mode != "RGB":
        upright = upright.convert("RGB")
    # By bands: Pillow hands pixels out through two copies, a gigabyte of the largest images.
    pixels = np.empty((upright.height, upright.width, 3), np.uint8)
    for top in range(0, upright.height, BAND):
        band = upright.crop((0, top, upright.width, min(top + BAND, upright.height)))
        pixels[top : top + BAND] = np.asarray(band)
    return pixels


def _as_stored(image: Image.Image) -> Image.Image:
    """``image`` without its EXIF orientation applied, which Pillow does by itself as it decodes a TIFF."""
    turn = image.getexif().get(ORIENTATION, 1) if image.format == "TIFF" else 1
    image.load()
    return image.transpose(_BACK[turn]) if turn in _BACK else image


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Whole numbers of 32 bits as 8: as they are up to 255, the upper byte of 16 bits above."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise FusionerError(f"an image of 32 bits has values from {low} to {high}: scale it to 0-255 and 8 bits first")
    return (values if high <= 255 else values >> 8).astype(np.uint8)
