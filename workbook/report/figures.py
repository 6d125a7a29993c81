"""The figures of a run inside its page, within a budget of bytes."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

BUDGET = 5_500_000
"""Bytes of all figures of a page together: 7.4 MB as base64, which leaves room for text in a page of 10 MB."""

MOST = 60
"""So many figures are shown; others are named."""

WIDTH = 1400
"""Wider figures, in pixels, are scaled down: three for each of a phone's, and sharp on paper."""

TALLEST = 4 * WIDTH
"""The same for their height; WebP ends at 16,383."""

EXACT = 60_000
"""A figure that takes no more bytes without loss keeps every pixel. Charts and tables do, photographs don't."""

QUALITIES = (90, 75, 60)
"""Of lossy WebP, tried in this order until a figure fits its share; then at half the width."""


@dataclass(frozen=True)
class Shown:
    """A figure as the page holds it: its file, size in pixels there, and WebP bytes. None where it is no image."""

    file: Path
    size: tuple[int, int]
    data: bytes | None

    @property
    def uri(self) -> str:
        """The picture itself as an address."""
        return f"data:image/webp;base64,{base64.b64encode(self.data or b'').decode()}"


def figures_of(folder: Path) -> list[Path]:
    """The files of a run's figures by name."""
    return sorted((folder / "figures").glob("*.png"))


def shown(files: Sequence[Path], *, budget: int = BUDGET) -> list[Shown]:
    """The pictures in ``files``, in their order, at most ``budget`` bytes together.

    Every file may take an equal share of what is left; the small ones go first, so what they leave serves the large.
    """
    found: dict[Path, Shown] = {}
    for place, file in enumerate(sorted(files, key=lambda file: file.stat().st_size)):
        spent = sum(len(one.data or b"") for one in found.values())
        found[file] = _shown(file, share=(budget - spent) // (len(files) - place))
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
            # What is small with loss may be small without it, and only then is the slower try worth its time.
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


def _webp(picture: Image.Image, *, quality: int | None) -> bytes:
    """The bytes of ``picture``; without loss where quality is None."""
    stream = io.BytesIO()
    kept = {"lossless": True, "quality": 50} if quality is None else {"quality": quality}
    picture.save(stream, format="WEBP", method=3, **kept)
    return stream.getvalue()
