"""Mosaic-4 and its variations: does a model put each name on the right tile, or does it only find objects?

``evaluate_mosaics`` asks a mosaic for the names of its tiles (definitions in docs/protocol.md); ``robustness_curves``
repeats that on degraded mosaics and with more and more absent names.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from fusionerlib.datasets.mosaic_sets import absent_names
from fusionerlib.datasets.mosaics import Mosaics
from fusionerlib.datasets.scene import IGNORE, Scenes, labels_for
from fusionerlib.datasets.transforms import Bordered, Corrupted
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import ClassCounts, decide, object_only, permuted
from fusionerlib.evaluation.queries import Query, present_queries, shuffled
from fusionerlib.evaluation.scoring import predict
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel

TILE_SIZES = (0.75, 0.5, 0.375, 0.25)
"""Side of a smaller tile as a share of the full one: 84, 56, 42 and 28 instead of 112 pixels on a canvas of 224."""
LEVELS: dict[str, tuple[int, ...]] = {"blur": (1, 2, 4, 8), "noise": (10, 20, 40, 80), "JPEG": (50, 20, 10, 5)}
"""Levels of each corruption (``datasets.transforms.CORRUPTIONS``), mildest first."""
CLEAN: dict[str, int] = {"blur": 0, "noise": 0, "JPEG": 100}
"""The level at which a corruption leaves the image unchanged (JPEG: 100 stands for no compression)."""
DISTRACTORS = (1, 5, 20, 50, 100, 200)
"""Numbers of absent names that are asked together with the four of the mosaic."""
UNITS = {
    "tile size": "side of a tile, pixels",
    "blur": "Gaussian blur, radius in pixels",
    "noise": "Gaussian noise, sigma (0-255 scale)",
    "JPEG": "JPEG quality",
    "distractors": "absent names asked with the four",
}
"""The robustness curves, and what their levels measure."""

Row = dict[str, Any]


@dataclass(frozen=True)
class MosaicResult:
    """Result on a set of mosaics. All values are 0-1 except the number of mosaics and the counts.

    assignment: share of the tiles whose own name has the largest sum of probabilities (``tiles_won``).
    counts_permuted, counts_object_only: the two controls, ``metrics.permuted`` and ``metrics.object_only``.
    chance: assignment of random guessing.
    absent_area: share of all pixels predicted as a name that no tile shows; NaN where none was asked.
    orphan_area: share of the object pixels of tiles whose name was not asked that were predicted as any name; NaN
        where all were asked.
    """

    mosaics: int
    assignment: float
    counts: ClassCounts
    counts_permuted: ClassCounts
    counts_object_only: ClassCounts
    chance: float = 0.25
    absent_area: float = math.nan
    orphan_area: float = math.nan

    def figures(self) -> dict[str, int | float]:
        """The scalars under their keys in ``metrics.json``."""
        return {
            "scenes": self.mosaics,
            "assignment": self.assignment,
            "miou": self.counts.miou,
            "miou_permuted": self.counts_permuted.miou,
            "miou_object_only": self.counts_object_only.miou,
            "fb_iou": self.counts.fb_iou,
        }

    def kind_figures(self) -> dict[str, int | float]:
        """``figures``, chance, and the predicted areas that are not NaN: the scalars of a harder kind of mosaic."""
        areas = {"absent_painted": self.absent_area, "orphan_painted": self.orphan_area}
        return {
            **self.figures(),
            "chance": self.chance,
            **{name: share for name, share in areas.items() if not math.isnan(share)},
        }


def evaluate_mosaics(
    model: SegmentationModel,
    scenes: StoredScenes,
    text_cache: TextEmbeddingCache,
    *,
    grid: int = 2,
    tile: int | None = None,
    asked: Sequence[tuple[str, ...]] | None = None,
    threshold: float = 0.5,
    seed: int = 0,
    quiet: bool = False,
) -> MosaicResult:
    """Ask every mosaic for all its names at once, in a random order drawn from ``seed`` (paper).

    scenes: mosaics of ``grid`` x ``grid`` tiles; tile t, counted row by row, shows ``names[t]``.
    tile: side of a tile in pixels where the mosaic stands in the middle of a border; None where it fills the scene.
    asked: the names to ask each mosaic for, where these are not its own.
    threshold: background threshold of the masks, 0-1.

    A name is counted in the mosaics that show it and are asked for it. False positives of a name that no tile shows
    reduce the IoU of the names whose pixels they take. The controls use the masks of the shown names only.
    Raises FusionerError where ``asked`` has not one entry a mosaic.
    """
    counts, permuted_counts, object_counts = ClassCounts(), ClassCounts(), ClassCounts()
    # Pixels predicted as a name, and all pixels: over whole mosaics for absent names, over orphaned tiles for any name.
    absent, orphaned = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    won: list[float] = []
    queries = present_queries(scenes) if asked is None else [Query(place, names) for place, names in enumerate(asked)]
    if len(queries) != len(scenes):
        raise FusionerError(f"{len(queries)} lists of names for {len(scenes)} mosaics: ask each mosaic once")
    queries = shuffled(queries, seed=seed)
    for query, probabilities, target in predict(model, scenes, text_cache, queries, quiet=quiet):
        shown = scenes.names(query.scene)
        here = [name for name in query.names if name in shown]
        own = [query.names.index(name) if name in query.names else None for name in shown]
        won += [win for win in tiles_won(probabilities, grid=grid, tile=tile, own=own) if win is not None]
        labels = decide(probabilities, threshold=threshold)
        found, wanted = (labels_for(map_, query.names, here) for map_ in (labels, target))
        counts.add(here, found, wanted)
        permuted_counts.add(here, permuted(found, names=len(here)), wanted)
        object_counts.add_masks(here, object_only(found, names=len(here)), wanted)
        if len(here) < len(query.names):
            absent += ((labels > 0) & (found == 0) & (target != IGNORE)).sum(), (target != IGNORE).sum()
        if None in own:
            orphans = [name for name in shown if name not in query.names]
            alone = labels_for(scenes[query.scene].labels.numpy(), shown, orphans)
            left = (alone > 0) & (alone != IGNORE)
            orphaned += (labels[left] > 0).sum(), left.sum()
    chance = float(np.mean([1 / len(query.names) for query in queries]))
    shares = (float(part / whole) if whole else math.nan for part, whole in (absent, orphaned))
    return MosaicResult(len(queries), float(np.mean(won)), counts, permuted_counts, object_counts, chance, *shares)


def tiles_won(
    probabilities: Float[np.ndarray, "names height width"],
    *,
    grid: int,
    own: Sequence[int | None],
    tile: int | None = None,
) -> list[bool | None]:
    """Whether each tile of a mosaic, row by row, is won by its own name; None for a tile whose name was not asked.

    The name with the largest sum of probabilities (0-1) over all pixels of a tile wins it. Masks play no role; a tie
    is lost. own: for each tile the index of its name in ``probabilities``. tile: side of a tile in pixels where the
    mosaic stands in the middle of a border. Raises FusionerError where the tiles are not ``grid`` x ``grid`` equal
    squares.
    """
    _, height, width = probabilities.shape
    side = tile or height // grid
    if len(own) != grid * grid or (tile is None and (height, width) != (grid * side, grid * side)):
        raise FusionerError(
            f"{len(own)} tiles on {width}x{height} pixels are no {grid}x{grid} equal tiles: resize the mosaic, or give "
            "the tile's size where it has a border"
        )
    top, left = (height - grid * side) // 2, (width - grid * side) // 2
    inside = probabilities[:, top : top + grid * side, left : left + grid * side]
    # One row a tile, one column a name; float64, so that a sum over many pixels keeps small differences.
    blocks = inside.reshape(len(inside), grid, side, grid, side)
    sums = blocks.sum(axis=(2, 4), dtype=np.float64).reshape(len(inside), grid * grid).T
    return [None if k is None else bool((row[k] > np.delete(row, k)).all()) for k, row in zip(own, sums, strict=True)]


def robustness_curves(
    model: SegmentationModel,
    mosaics: Mosaics,
    text_cache: TextEmbeddingCache,
    *,
    features: Callable[[Scenes, str], StoredScenes],
    vocabulary: Sequence[str],
    seed: int = 0,
    threshold: float = 0.5,
    quiet: bool = False,
) -> list[Row]:
    """Evaluate 2x2 ``mosaics`` at every level of every curve of ``UNITS``.

    Returns one row for each curve and level, the clean one first: curve, level, clean (bool), mosaics, and miou,
    assignment and chance (0-1).
    tile size: the mosaic is made smaller and stands in the middle of a border of its mean colour, labelled background.
    blur, noise, JPEG: applied to the pixels of the mosaic.
    distractors: absent names of ``vocabulary`` are asked too; levels that need more names than there are are left out.
    features: ``RunContext.features``, which computes and stores frozen features. seed: of noise and absent names.
    """
    rows: list[Row] = []

    def evaluated(stored: StoredScenes, **options: Any) -> MosaicResult:
        return evaluate_mosaics(model, stored, text_cache, seed=seed, threshold=threshold, quiet=quiet, **options)

    def add(curve: str, level: int, result: MosaicResult, *, clean: bool = False) -> None:
        figures = {"miou": result.counts.miou, "assignment": result.assignment, "chance": result.chance}
        rows.append({"curve": curve, "level": float(level), "clean": clean, "mosaics": result.mosaics, **figures})

    stored = features(mosaics, "mosaics of the curves")
    clean = evaluated(stored)
    add("tile size", mosaics.size // mosaics.grid, clean, clean=True)
    for tile, scenes in _shrunk(mosaics):
        add("tile size", tile, evaluated(features(scenes, f"tiles of {tile} px"), tile=tile))
    for curve, levels in LEVELS.items():
        add(curve, CLEAN[curve], clean, clean=True)
        for level in levels:
            corrupted = Corrupted(mosaics, curve, level, seed=seed)
            add(curve, level, evaluated(features(corrupted, f"{curve} {level:g}")))
    add("distractors", 0, clean, clean=True)
    present = [mosaics.names(index) for index in range(len(mosaics))]
    absent = absent_names(vocabulary, present, count=max(DISTRACTORS), seed=seed)
    for count in DISTRACTORS:
        if count <= min(map(len, absent)):
            asked = [(*names, *others[:count]) for names, others in zip(present, absent, strict=True)]
            add("distractors", count, evaluated(stored, asked=asked))
    return rows


def curve_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of ``robustness_curves`` as ``metrics.json`` holds them.

    By curve: ``hardest`` (the last level), mIoU and assignment there and when clean, and the lists over all levels.
    """
    figures: dict[str, dict[str, Any]] = {}
    for curve in dict.fromkeys(row["curve"] for row in rows):
        own = [row for row in rows if row["curve"] == curve]
        ends = {"clean": own[0], "hardest": own[-1]}
        figures[curve] = {
            "hardest": own[-1]["level"],
            **{f"{name}_{end}": row[name] for name in ("miou", "assignment") for end, row in ends.items()},
            **{f"{name}s": [row[name] for row in own] for name in ("level", "miou", "assignment")},
        }
    return figures


def _shrunk(mosaics: Mosaics) -> Iterator[tuple[int, Scenes]]:
    """Each tile size (pixels) with the same mosaics of such tiles inside a border.

    The mosaics are composed at the smaller size, so that every image is resized only once.
    """
    for share in TILE_SIZES:
        tile = round(share * (mosaics.size // mosaics.grid))
        small = Mosaics(mosaics.scenes, mosaics.indices, size=mosaics.grid * tile, grid=mosaics.grid)
        yield tile, Bordered(small, size=mosaics.size)
