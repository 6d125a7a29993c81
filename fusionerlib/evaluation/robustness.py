"""Robustness curves: the same mosaics made worse step by step, or asked for more and more names that are not there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fusionerlib.datasets.corruptions import Bordered, Corrupted
from fusionerlib.datasets.mosaic_sets import absent_names
from fusionerlib.datasets.mosaics import Mosaics
from fusionerlib.datasets.scene import Scenes
from fusionerlib.evaluation.mosaics import MosaicResult, evaluate_mosaics
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel

TILE_SIZES = (0.75, 0.5, 0.375, 0.25)
"""A tile's side as a share of its full one: 84, 56, 42 and 28 pixels instead of 112 on a canvas of 224."""
LEVELS: dict[str, tuple[int, ...]] = {"blur": (1, 2, 4, 8), "noise": (10, 20, 40, 80), "JPEG": (50, 20, 10, 5)}
"""Of each corruption (``corrupt``), mildest first."""
CLEAN: dict[str, int] = {"blur": 0, "noise": 0, "JPEG": 100}
"""The level that stands for no corruption at all."""
DISTRACTORS = (1, 5, 20, 50, 100, 200)
"""Absent names that are asked beside the four."""

UNITS = {
    "tile size": "side of a tile, pixels",
    "blur": "Gaussian blur, radius in pixels",
    "noise": "Gaussian noise, sigma of 255",
    "JPEG": "JPEG quality",
    "distractors": "absent names asked beside the four",
}
"""The curves, and what their levels are."""

Row = dict[str, Any]
Features = Callable[[Scenes, str], StoredScenes]


def robustness_curves(
    model: SegmentationModel,
    mosaics: Mosaics,
    text_cache: TextEmbeddingCache,
    *,
    features: Features,
    vocabulary: Sequence[str],
    seed: int = 0,
    threshold: float = 0.5,
    quiet: bool = False,
) -> list[Row]:
    """One row for every curve and level, the clean one first: curve, level, clean, mosaics, miou, assignment, chance.

    tile size: the 2x2 mosaic is made smaller and stands in the middle of a border of its mean colour, labelled
    background. Blur, noise and JPEG act on the mosaic's pixels. distractors: names of ``vocabulary`` that are absent;
    levels for which it has too few are left out. features: ``RunContext.features``, what stores frozen features.
    """
    rows: list[Row] = []

    def measured(stored: StoredScenes, **how: Any) -> MosaicResult:
        return evaluate_mosaics(model, stored, text_cache, seed=seed, threshold=threshold, quiet=quiet, **how)

    def add(curve: str, level: int, result: MosaicResult, *, clean: bool = False) -> None:
        figures = {"miou": result.counts.miou, "assignment": result.assignment, "chance": result.chance}
        rows.append({"curve": curve, "level": float(level), "clean": clean, "mosaics": result.mosaics, **figures})

    stored = features(mosaics, "mosaics of the curves")
    clean = measured(stored)
    full = mosaics.size // mosaics.grid
    add("tile size", full, clean, clean=True)
    for tile, scenes in _shrunk(mosaics):
        add("tile size", tile, measured(features(scenes, f"tiles of {tile} px"), tile=tile))
    for curve, levels in LEVELS.items():
        add(curve, CLEAN[curve], clean, clean=True)
        for level in levels:
            worse = Corrupted(mosaics, curve, level, seed=seed)
            add(curve, level, measured(features(worse, f"{curve} {level:g}")))
    add("distractors", 0, clean, clean=True)
    present = [mosaics.names(index) for index in range(len(mosaics))]
    absent = absent_names(vocabulary, present, count=max(DISTRACTORS), seed=seed)
    for count in DISTRACTORS:
        if count <= min(map(len, absent)):
            asked = [(*names, *others[:count]) for names, others in zip(present, absent, strict=True)]
            add("distractors", count, measured(stored, asked=asked))
    return rows


def curve_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By curve, for ``metrics.json``: mIoU and assignment when clean and at the hardest level, and at every level."""
    figures: dict[str, dict[str, Any]] = {}
    for curve in dict.fromkeys(row["curve"] for row in rows):
        own = [row for row in rows if row["curve"] == curve]
        first, last = own[0], own[-1]
        figures[curve] = {
            "hardest": last["level"],
            **{f"{name}_{end}": row[name] for name in ("miou", "assignment") for end, row in _ends(first, last)},
            **{f"{name}s": [row[name] for row in own] for name in ("level", "miou", "assignment")},
        }
    return figures


def _ends(first: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "clean", first
    yield "hardest", last


def _shrunk(mosaics: Mosaics) -> Iterator[tuple[int, Scenes]]:
    """The same mosaics with smaller tiles, each with its tile's side; made at that size, so resized only once."""
    for share in TILE_SIZES:
        tile = round(share * (mosaics.size // mosaics.grid))
        small = Mosaics(mosaics.scenes, mosaics.indices, size=mosaics.grid * tile, grid=mosaics.grid)
        yield tile, Bordered(small, size=mosaics.size)
