"""The figures of a run as they are embedded in its page, within a limit of bytes."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

BUDGET = 5_500_000
"""Bytes of all figures of a page together; they are 7.4 MB as base64, and the page stays under 10 MB."""

MOST = 60
"""At most so many figures are shown; more are linked."""

WIDTH = 1400
"""Pixels. Wider figures are scaled down to it."""

TALLEST = 4 * WIDTH
"""Pixels. Taller figures are scaled down to it; WebP can hold 16,383 at most."""

EXACT = 60_000
"""A figure of at most so many bytes is stored without loss: charts and tables are, photographs are larger."""

QUALITIES = (90, 75, 60)
"""Qualities of lossy WebP, tried in this order until a figure fits its share; then again at half the width."""


@dataclass(frozen=True)
class Shown:
    """A figure of the page: its file, its size in pixels there, and its WebP bytes, None where it can't be shown."""

    file: Path
    size: tuple[int, int]
    data: bytes | None

    @property
    def uri(self) -> str:
        """The bytes as a ``data:`` URI."""
        return _uri(self.data or b"")


def data_uri(picture: Image.Image, *, quality: int) -> str:
    """``picture`` as a ``data:`` URI of lossy WebP; quality: 1-100."""
    return _uri(_webp(picture, quality=quality))


def figures_of(folder: Path) -> list[Path]:
    """The files of a run's figures by name."""
    return sorted((folder / "figures").glob("*.png"))


def shown(files: Sequence[Path], *, budget: int = BUDGET) -> list[Shown]:
    """The figures in ``files``, in their order, at most ``budget`` bytes together.

    Each may take an equal share of the bytes that are left. Small files go first, so large ones get what those leave.
    """
    with ThreadPoolExecutor(2) as pool:  # WebP is encoded without Python's global lock
        best = dict(zip(files, pool.map(lambda file: _shown(file, share=budget), files), strict=True))
    found: dict[Path, Shown] = {}
    for place, file in enumerate(sorted(files, key=lambda file: file.stat().st_size)):
        spent = sum(len(one.data or b"") for one in found.values())
        share = (budget - spent) // (len(files) - place)
        found[file] = best[file] if len(best[file].data or b"") <= share else _shown(file, share=share)
    return [found[file] for file in files]


def _shown(file: Path, *, share: int) -> Shown:
    try:
        with Image.open(file) as image:
            picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return Shown(file, (0, 0), None)
    scale = min(1.0, WIDTH / picture.width, TALLEST / picture.height)
    while True:
        small = picture if scale == 1 else picture.resize(_size(picture, scale), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            data = _webp(small, quality=quality)
            # Lossless compression is slow, and worth a try only where the lossy file is small already.
            exact = _webp(small, quality=None) if len(data) <= EXACT and quality == QUALITIES[0] else b""
            if exact and len(exact) <= min(EXACT, share):
                return Shown(file, small.size, exact)
            if len(data) <= share:
                return Shown(file, small.size, data)
        if max(small.size) == 1:
            return Shown(file, (0, 0), None)
        scale /= 2


def _size(picture: Image.Image, scale: float) -> tuple[int, int]:
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _webp(picture: Image.Image, *, quality: int | None) -> bytes:
    """The bytes of ``picture``; without loss where quality is None."""
    stream = io.BytesIO()
    kept = {"lossless": True, "quality": 50} if quality is None else {"quality": quality}
    picture.save(stream, format="WEBP", method=3, **kept)
    return stream.getvalue()
