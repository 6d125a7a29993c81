"""Reading an image from whatever a person has: a file, a Pillow image, an array."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fusionerlib.errors import FusionerError

JPEG = b"\xff\xd8\xff"
"""How every JPEG file begins."""
ImageLike = Image.Image | np.ndarray | str | os.PathLike[str]


def read_image(image: Any) -> UInt8[np.ndarray, "height width 3"]:
    """RGB 0-255, upright, transparency put on white. Raises FusionerError naming a file or array that can't be read."""
    if isinstance(image, np.ndarray):
        shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not shaped or not image.size:
            raise FusionerError(
                f"an array of shape {image.shape} and type {image.dtype} is no image: expected uint8, 0-255, of shape "
                "(height, width), (height, width, 3) or (height, width, 4)"
            )
        return _rgb(Image.fromarray(np.ascontiguousarray(image)))
    if isinstance(image, Image.Image):
        return _rgb(image)
    if not isinstance(image, str | os.PathLike):
        raise FusionerError(f"a {type(image).__name__} is no image: pass a Pillow image, a uint8 array or a path")
    if not Path(image).is_file():
        raise FusionerError(f"image {os.fspath(image)!r} is not a file (looked in {Path.cwd()}): check the path")
    try:
        content = Path(image).read_bytes()
        pixels = _jpeg(content) if content.startswith(JPEG) else None
        if pixels is not None:
            return pixels
        with Image.open(BytesIO(content)) as opened:
            return _rgb(opened)
    # Pillow's readers raise whatever their parsers stumble over; all of it means the same to the caller.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise FusionerError(
            f"image {os.fspath(image)!r} can't be read ({reason}): open and save it anew as JPEG or PNG"
        ) from error


def _jpeg(content: bytes) -> np.ndarray | None:
    """A JPEG, upright: torchvision's decoder gives Pillow's pixels in two thirds of the time. None for one in CMYK."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    # A copy that may be written to, as torch wants its memory.
    coded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    decoded = decode_jpeg(coded, mode=ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    if len(decoded) not in (1, 3):
        return None
    return np.ascontiguousarray(decoded.expand(3, -1, -1).permute(1, 2, 0).numpy())


def _rgb(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255; the upper byte is the picture.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
