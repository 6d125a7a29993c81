"""Words that mean something else: what a model can do with names alone, when what they say is taken from them.

Mosaics asked for the names of their tiles: who wins which tile, and the two controls (docs/protocol.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import ClassCounts, decide, object_only, permuted
from fusionerlib.evaluation.queries import Query, present_queries, shuffled
from fusionerlib.evaluation.scoring import predict, relabelled
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel


class ShuffledWords(TextEmbeddingCache):
    """The tokens of ``text_cache``, each under another name of the same group; the same one in training and in tests.

    All that is known of the tokens stays (how many, how alike), only whose they are is drawn by ``seed``. groups: names
    that exchange their tokens, those of training and the others apart, so that an unseen name stays unseen. A name
    alone in its group keeps its token. Raises FusionerError for a name of no group.
    """

    def __init__(self, text_cache: TextEmbeddingCache, groups: Sequence[Sequence[str]], *, seed: int) -> None:
        super().__init__(encoder=text_cache.encoder, templates=text_cache.templates, synonyms=text_cache.synonyms)
        rng = np.random.default_rng((seed, 4))
        self.meant: dict[str, str] = {}
        for group in groups:
            ring = [sorted(group)[place] for place in rng.permutation(len(group))]
            # One ring, so that no name finds its way back to itself.
            self.meant |= dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))

    def _encoded(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        if unknown := [name for name in names if name not in self.meant]:
            raise FusionerError(
                f"no shuffled token for {unknown[0]!r}: put every name that is trained or asked into one of the groups"
            )
        return super()._encoded([self.meant[name] for name in names])


AT_ONCE = 64
"""So many names are asked in one batch, in all of its mosaics together: each is a map of probabilities."""


@dataclass(frozen=True)
class MosaicResult:
    """Mosaic-4 figures, all 0-1, with the number of mosaics and the counts behind them.

    chance: what guessing would win. absent_painted: the share of all pixels painted for names that no tile shows.
    orphan_painted: the share of the object pixels of tiles whose name was not asked that any name was painted on.
    Both are NaN where no such name was asked, or no such tile is there.
    """

    mosaics: int
    assignment: float
    counts: ClassCounts
    counts_permuted: ClassCounts
    counts_object_only: ClassCounts
    chance: float = 0.25
    absent_painted: float = math.nan
    orphan_painted: float = math.nan

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

    def kind_figures(self) -> dict[str, int | float]:
        """The scalars of a harder kind: with chance, and what was painted for a name that is not there."""
        painted = {"absent_painted": self.absent_painted, "orphan_painted": self.orphan_painted}
        measured = {name: value for name, value in painted.items() if not math.isnan(value)}
        return {**self.figures(), "chance": self.chance, **measured}


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
    """Mosaics (tile t, row by row, holds ``names[t]``) asked for all their names at once, in a seeded order (paper).

    tile: pixels of a tile's side where the mosaic stands in the middle of a border; None where it fills the scene.
    asked: the names asked of each mosaic instead of its own: more than there are tiles, or not those of all tiles.
    Names are counted in the mosaics that show them and are asked for them; what is painted for a name that no tile
    shows costs the names whose pixels it took. The controls exchange and join the masks of the shown names alone.
    """
    counts, permuted_counts, object_counts = ClassCounts(), ClassCounts(), ClassCounts()
    absent, orphaned = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    won: list[float] = []
    queries = present_queries(scenes) if asked is None else [Query(place, names) for place, names in enumerate(asked)]
    if len(queries) != len(scenes):
        raise FusionerError(f"{len(queries)} lists of names for {len(scenes)} mosaics: ask each mosaic once")
    queries = shuffled(queries, seed=seed)
    most = max((len(query.names) for query in queries), default=1)
    for query, probabilities, target in predict(
        model, scenes, text_cache, queries, batch=max(1, min(16, AT_ONCE // most)), quiet=quiet
    ):
        shown = scenes.names(query.scene)
        here = [name for name in query.names if name in shown]
        own = [query.names.index(name) if name in query.names else None for name in shown]
        won += [win for win in tiles_won(probabilities, grid=grid, tile=tile, own=own) if win is not None]
        labels = decide(probabilities, threshold=threshold)
        found, wanted = (relabelled(map_, query.names, here) for map_ in (labels, target))
        counts.add(here, found, wanted)
        permuted_counts.add(here, permuted(found, names=len(here)), wanted)
        object_counts.add_masks(here, object_only(found, names=len(here)), wanted)
        if len(here) < len(query.names):
            absent += ((labels > 0) & (found == 0) & (target != IGNORE)).sum(), (target != IGNORE).sum()
        if None in own:
            orphans = [name for name in shown if name not in query.names]
            alone = relabelled(scenes[query.scene].labels.numpy(), shown, orphans)
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

    A tile is won by the name with the largest sum of probabilities over all of the tile's pixels, of all names that
    were asked; no mask is consulted and ties lose. ``own[t]`` is the place of tile t's name among the names. tile: the
    tiles' side where the mosaic stands in the middle of a border.
    Raises FusionerError where the tiles are not ``grid`` x ``grid`` equal ones.
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
