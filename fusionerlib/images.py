"""Reading an image from a file, a Pillow image or an array."""

import os
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fusionerlib.errors import FusionerError

JPEG = b"\xff\xd8\xff"
"""The first bytes of every JPEG file."""
PIXEL_LIMIT = 89_478_485
"""Most pixels of an image, which is Pillow's limit too: its decoded channels take a quarter of a gigabyte."""
_ORIENTATION = 0x0112
"""EXIF's tag."""
_PNG_MARKS = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
"""What a PNG with an orientation holds."""
ImageLike = Image.Image | np.ndarray | str | os.PathLike[str]


def read_image(image: Any, *, upright: bool = True) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of ``image`` (``ImageLike``) as RGB, 0-255.

    EXIF orientation is applied, unless ``upright`` is False; transparent pixels are blended with white, 16-bit grey
    keeps its upper byte.
    Raises FusionerError for a missing or unreadable file, another type, and an array that is not uint8 of shape
    (height, width), (height, width, 3) or (height, width, 4).
    """
    if isinstance(image, np.ndarray):
        shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not shaped or not image.size:
            raise FusionerError(
                f"an array of shape {image.shape} and type {image.dtype} is no image: expected uint8, 0-255, of shape "
                "(height, width), (height, width, 3) or (height, width, 4)"
            )
        return _rgb(Image.fromarray(np.ascontiguousarray(image)))
    if isinstance(image, Image.Image):
        return _rgb(image, upright)
    if not isinstance(image, str | os.PathLike):
        raise FusionerError(f"a {type(image).__name__} is no image: pass a Pillow image, a uint8 array or a path")
    if not Path(image).is_file():
        raise FusionerError(f"image {os.fspath(image)!r} is not a file (looked in {Path.cwd()}): check the path")
    try:
        content = Path(image).read_bytes()
        # torchvision takes seconds to import, and its decoder is only quicker: it serves where it is loaded anyway.
        pixels = _jpeg(content, upright) if content.startswith(JPEG) and "torchvision" in sys.modules else None
        if pixels is not None:
            return pixels
        with Image.open(BytesIO(content)) as opened:
            return _rgb(opened, upright)
    # Pillow's parsers raise errors of many types; all of them mean that the file can't be read.
    except Exception as error:
        # Pillow's message holds the address of our buffer, which differs from run to run.
        reason = re.sub(r" <_io\.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        raise FusionerError(
            f"image {os.fspath(image)!r} can't be read ({reason}): open and save it anew as JPEG or PNG"
        ) from error


class Header(NamedTuple):
    """Of an image file: height and width as its pixels are stored, and its EXIF orientation (1 to 8; 1 is upright)."""

    height: int
    width: int
    orientation: int

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) with the orientation applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_header(file: Path) -> Header:
    """The header of an image file; its pixels are not decoded. Raises FusionerError where it is no image."""
    try:
        with Image.open(file) as opened:
            width, height = opened.size
            # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
            marked = opened.format != "PNG" or any(mark in file.read_bytes() for mark in _PNG_MARKS)
            orientation = opened.getexif().get(_ORIENTATION, 1) if marked else 1
    # Pillow's parsers raise errors of many types.
    except Exception as error:
        raise FusionerError(f"image {str(file)!r} can't be read ({type(error).__name__}): copy it again") from error
    return Header(height, width, orientation if orientation in range(1, 9) else 1)


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
    upright = ImageOps.exif_transpose(image) if turn else image
    if upright.mode.startswith("I;16"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
