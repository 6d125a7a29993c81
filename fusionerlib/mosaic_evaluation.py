"""Mosaics asked for the names of their tiles: who wins which tile, and the two controls (docs/protocol.md)."""

from dataclasses import dataclass

import numpy as np

from fusionerlib.evaluation import predict, present_queries, shuffled
from fusionerlib.features import StoredScenes
from fusionerlib.fusion import SegmentationModel
from fusionerlib.metrics import ClassCounts, assignment, decide, object_only, permuted
from fusionerlib.words import WordTable


@dataclass(frozen=True)
class MosaicResult:
    """Mosaic-4 figures, all 0-1, with the number of mosaics and the counts behind them."""

    mosaics: int
    assignment: float
    counts: ClassCounts
    counts_permuted: ClassCounts
    counts_object_only: ClassCounts

    def figures(self) -> dict[str, int | float]:
        """The scalars, by the names that ``metrics.json`` uses."""
        return {
            "scenes": self.mosaics,
            "assignment": self.assignment,
            "miou": self.counts.miou,
            "miou_permuted": self.counts_permuted.miou,
            "miou_object_only": self.counts_object_only.miou,
            "fb_iou": self.counts.fb_iou,
        }


def evaluate_mosaics(
    model: SegmentationModel,
    scenes: StoredScenes,
    words: WordTable,
    *,
    grid: int = 2,
    threshold: float = 0.5,
    seed: int = 0,
    quiet: bool = False,
) -> MosaicResult:
    """Mosaics (tile t, row by row, holds ``names[t]``) asked for all their names at once, in a seeded order (paper)."""
    counts, permuted_counts, object_counts = ClassCounts(), ClassCounts(), ClassCounts()
    won = []
    queries = shuffled(present_queries(scenes), seed=seed)
    for query, probabilities, target in predict(model, scenes, words, queries, quiet=quiet):
        tiles = [scenes.names(query.scene).index(name) for name in query.names]
        won.append(assignment(probabilities, grid=grid, tile_of_name=tiles))
        labels = decide(probabilities, threshold=threshold)
        counts.add(query.names, labels, target)
        permuted_counts.add(query.names, permuted(labels, names=len(query.names)), target)
        object_counts.add_masks(query.names, object_only(labels, names=len(query.names)), target)
    return MosaicResult(len(queries), float(np.mean(won)), counts, permuted_counts, object_counts)
