"""Colours for names: those of Okabe and Ito, which are colour-blind-safe, then ones chosen to be most distinct."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Integer, UInt8

from fusionerlib.errors import FusionerError

LIMIT = 254
"""Number of colours: the labels of an 8-bit map without background (0) and ignored (255)."""

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito, "Color Universal Design" (2008), without black, which looks like a shadow in a photo."""

# Normal vision, protanopia and deuteranopia on linear RGB (Machado, Oliveira, Fernandes 2009). The distance between two
# colours is the smallest of the three.
_VISIONS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)


def palette(count: int) -> UInt8[np.ndarray, "count 3"]:
    """The first ``count`` colours, RGB 0-255, all different. Colour i does not depend on ``count``.

    Raises FusionerError for a count outside 0 to 254.
    """
    if not 0 <= count <= LIMIT:
        raise FusionerError(f"{count} colours were asked for, expected 0 to {LIMIT}: show fewer names at once")
    return _all()[:count].copy()


def colour(index: int) -> tuple[int, int, int]:
    """RGB 0-255 of name ``index`` (from 0); the colours repeat after ``LIMIT``."""
    red, green, blue = _all()[index % LIMIT]
    return int(red), int(green), int(blue)


def colourise(labels: Integer[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """A label map as RGB 0-255: 0 is black, k + 1 the colour of name k, 255 (ignored) white.

    Raises FusionerError for labels outside 0-255.
    """
    table = np.concatenate([np.zeros((1, 3), np.uint8), _all(), np.full((1, 3), 255, np.uint8)])
    if labels.size and not 0 <= labels.min() <= labels.max() <= LIMIT + 1:
        raise FusionerError(f"labels {labels.min()} to {labels.max()}, expected 0 to {LIMIT} or 255 for ignored")
    return table.take(labels, axis=0)  # in a third of the time of table[labels]


@lru_cache(maxsize=1)
def _all() -> np.ndarray:
    first = np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in OKABE_ITO], dtype=np.uint8)
    steps = np.linspace(0, 255, 14).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    # No colours close to black, white or grey, which are common in photos, outlines and backgrounds.
    lab = oklab(grid)
    candidates = grid[(lab[:, 0] > 0.42) & (lab[:, 0] < 0.92) & (np.hypot(lab[:, 1], lab[:, 2]) > 0.05)]
    seen = _as_seen(candidates)
    nearest = np.min([_distance(seen, point) for point in _as_seen(first).swapaxes(0, 1)], axis=0)
    chosen = []
    for _ in range(LIMIT - len(first)):
        index = int(nearest.argmax())
        chosen.append(candidates[index])
        nearest = np.minimum(nearest, _distance(seen, seen[:, index]))
    return np.concatenate([first, np.array(chosen)])


def oklab(rgb: UInt8[np.ndarray, "colours 3"]) -> Float[np.ndarray, "colours 3"]:
    """OKLab coordinates (Ottosson 2020) of sRGB colours (0-255): lightness 0-1, green-red, blue-yellow."""
    return _linear_to_oklab(_linear(rgb))


def _linear(rgb: np.ndarray) -> np.ndarray:
    unit = np.asarray(rgb, dtype=np.float64) / 255
    linear: np.ndarray = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    return linear


def _linear_to_oklab(linear: np.ndarray) -> np.ndarray:
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    lab: np.ndarray = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return lab


def _as_seen(rgb: np.ndarray) -> np.ndarray:
    """OKLab of each colour under each kind of colour vision: (visions, colours, 3)."""
    linear = _linear(rgb)
    return np.stack([_linear_to_oklab(np.clip(linear @ vision.T, 0, 1)) for vision in _VISIONS])


def _distance(seen: np.ndarray, point: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(seen - point[:, None], axis=-1).min(axis=0)
    return distance
