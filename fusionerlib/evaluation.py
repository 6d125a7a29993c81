"""Evaluation: queries to probabilities to counts. Protocols differ only in their queries and in what is counted."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor
from tqdm import tqdm

from fusionerlib.datasets.scene import Scenes
from fusionerlib.features import StoredScenes
from fusionerlib.fusion import SegmentationModel
from fusionerlib.metrics import ClassCounts, decide, harmonic_mean
from fusionerlib.sampling import NameSampler
from fusionerlib.thresholds import ThresholdTable
from fusionerlib.words import WordTable

RECORD_NAMES = {
    "seen": "seen_names",
    "combinations": "unseen_combinations",
    "objects": "unseen_objects",
    "novel": "novel_classes",
    "all": "all_classes",
    "validation": "validation",
}
"""What ``metrics.json`` calls the tests."""


@dataclass(frozen=True)
class Query:
    """One question: the names asked of one scene, in this order.

    scored_as: the names whose masks the answers are compared with, where these are not the ones asked: a control.
    """

    scene: int
    names: tuple[str, ...]
    scored_as: tuple[str, ...] = ()

    @property
    def truth(self) -> tuple[str, ...]:
        """Whose masks the answers are compared with, in the order of ``names``."""
        return self.scored_as or self.names


Prediction = tuple[Query, Float[np.ndarray, "_ _ _"], Integer[np.ndarray, "_ _"]]
"""A query, its probabilities (names, height, width; 0-1), and the labels: k + 1 is ``query.truth[k]``, 255 ignored."""


def present_queries(scenes: StoredScenes) -> list[Query]:
    """Every scene asked for exactly the names that are in it."""
    return [Query(index, scenes.names(index)) for index in range(len(scenes))]


def single_queries(pairs: Sequence[tuple[int, str]]) -> list[Query]:
    """Every (scene, name) pair on its own: the episodes of PASCAL-5i (paper)."""
    return [Query(scene, (name,)) for scene, name in pairs]


def absent_queries(
    queries: Sequence[Query], *, present: Callable[[int], Collection[str]], vocabulary: Sequence[str], seed: int
) -> list[Query]:
    """Control for questions of one name: each asks a name of ``vocabulary`` that is not in its scene, drawn from
    ``seed``, and the answer is compared with the mask of the name that was asked before.

    present: every name in a scene, whether it is asked or not. Left out are scenes that show the whole vocabulary.
    """
    drawn = []
    for place, query in enumerate(queries):
        absent = [name for name in vocabulary if name not in present(query.scene)]
        if absent:
            name = absent[int(np.random.default_rng((seed, place)).integers(len(absent)))]
            drawn.append(Query(query.scene, (name,), scored_as=query.names))
    return drawn


def distractor_queries(
    scenes: Scenes | StoredScenes, *, vocabulary: Sequence[str], names: int, hard: float, seed: int
) -> list[Query]:
    """Every scene asked for its own names and absent ones of ``vocabulary``, ``names`` in all, in a seeded order.

    hard: share of absent names that have a word in common with one of the scene ("red ball" for "red car").
    """
    queries = []
    sampler = NameSampler(vocabulary, positives=1, negatives=names - 1, hard=hard)
    for index in range(len(scenes)):
        rng = np.random.default_rng((seed, index))
        asked = sampler.complete(scenes.names(index), scenes.names(index), rng)
        queries.append(Query(index, tuple(asked[i] for i in rng.permutation(len(asked)))))
    return queries


def shuffled(queries: Sequence[Query], *, seed: int) -> list[Query]:
    """The same questions with each one's names in a seeded random order."""
    rngs = [np.random.default_rng((seed, query.scene)) for query in queries]
    return [
        Query(query.scene, tuple(query.names[i] for i in rng.permutation(len(query.names))))
        for query, rng in zip(queries, rngs, strict=True)
    ]


def predict(
    model: SegmentationModel,
    scenes: StoredScenes,
    words: WordTable,
    queries: Sequence[Query],
    *,
    batch: int = 16,
    quiet: bool = False,
) -> Iterator[Prediction]:
    """Each query with its probabilities (0-1) at the labels' size, and the labels by the query's names.

    In those labels k + 1 is ``query.truth[k]``, 0 everything else, 255 ignored. Scenes must share one grid and size.
    """
    words.add(name for query in queries for name in query.names)
    device = model.device
    bar = tqdm(total=len(queries), desc="evaluation", unit="scene", disable=quiet, mininterval=2)
    for start in range(0, len(queries), batch):
        part = queries[start : start + batch]
        stored = [scenes[query.scene] for query in part]
        tokens, names_mask = words.padded([query.names for query in part])
        patches = torch.stack([scene.tokens for scene in stored])
        with torch.no_grad():
            logits: Tensor = model(
                rearrange(patches, "b h w d -> b (h w) d").to(device),
                tokens.to(device),
                grid=(patches.shape[1], patches.shape[2]),
                size=(stored[0].labels.shape[0], stored[0].labels.shape[1]),
                names_mask=None if bool(names_mask.all()) else names_mask.to(device),
            )
        for query, scene, maps in zip(part, stored, logits.sigmoid().cpu().numpy(), strict=True):
            yield query, maps[: len(query.names)], relabelled(scene.labels.numpy(), scene.names, query.truth)
        bar.update(len(part))
    bar.close()


def relabelled(labels: np.ndarray, names: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    """Labels by ``names`` as labels by ``asked``: what is not asked becomes background, 255 stays."""
    table = np.zeros(256, dtype=np.int32)
    table[255] = 255
    for place, name in enumerate(names, start=1):
        if name in asked:
            table[place] = asked.index(name) + 1
    return table[labels]


@dataclass(frozen=True)
class Evaluation:
    """Counts by name over all queries, and each query's own score: mean IoU (0-1) over the names in its scene."""

    counts: ClassCounts
    scores: list[tuple[Query, float]]

    def figures(self) -> dict[str, int | float]:
        """The scalars, by the names that ``metrics.json`` uses."""
        return {"scenes": len(self.scores), "miou": self.counts.miou, "fb_iou": self.counts.fb_iou}

    @property
    def iou(self) -> dict[str, float]:
        """IoU (0-1) by name, of the names that have one."""
        return {row["name"]: row["iou"] for row in self.counts.table() if not math.isnan(row["iou"])}

    def extremes(self, count: int) -> list[Query]:
        """The ``count`` best queries, best first, then the ``count`` worst, worst last."""
        ranked = [query for query, _ in sorted(self.scores, key=lambda row: -row[1])]
        return ranked[:count] + ranked[max(count, len(ranked) - count) :]


def evaluate(
    model: SegmentationModel,
    scenes: StoredScenes,
    words: WordTable,
    queries: Sequence[Query],
    *,
    threshold: float = 0.5,
    table: ThresholdTable | None = None,
    quiet: bool = False,
) -> Evaluation:
    """All ``queries`` answered and scored; the parameters of ``predict`` and ``score``."""
    predictions = predict(model, scenes, words, queries, quiet=quiet)
    return score(predictions, present=scenes.names, threshold=threshold, table=table)


def score(
    predictions: Iterable[Prediction],
    *,
    present: Callable[[int], Sequence[str]],
    threshold: float = 0.5,
    table: ThresholdTable | None = None,
) -> Evaluation:
    """Argmax over each query's names, background at or under ``threshold``, counted by name.

    Only names that some scene shows (``present`` gives a scene's) are counted as classes; what was painted for the
    others still costs the classes whose pixels it took. table: gets every prediction too, for other thresholds.
    """
    counts, scores, shown = ClassCounts(), [], set[str]()
    for query, probabilities, target in predictions:
        episode, there = ClassCounts(), present(query.scene)
        episode.add(query.truth, decide(probabilities, threshold=threshold), target)
        scores.append((query, episode.only(there).miou))
        counts.merge(episode)
        shown.update(there)
        if table is not None:
            table.add(query.truth, probabilities, target)
    return Evaluation(counts.only(shown), scores)


def zero_shot(iou: Mapping[str, float], *, unseen: Collection[str]) -> dict[str, float]:
    """The generalized zero-shot triple from the IoU (0-1) of names asked together: the means over the ``seen`` and the
    ``unseen`` ones, and their ``harmonic`` mean. NaN where the test shows no name of a kind."""
    seen, novel = ([level for name, level in iou.items() if (name in unseen) == kind] for kind in (False, True))
    means = [float(np.mean(levels)) if levels else math.nan for levels in (seen, novel)]
    return {"seen": means[0], "unseen": means[1], "harmonic": harmonic_mean(*means)}


def questions(
    scenes: StoredScenes,
    *,
    pairs: Sequence[tuple[int, str]] | None,
    vocabulary: Sequence[str],
    names: int,
    seed: int = 0,
) -> list[Query]:
    """The queries of a test: its published ``pairs`` one name at a time, or every scene with look-alikes beside."""
    if pairs is not None:
        return single_queries(pairs)
    return distractor_queries(scenes, vocabulary=vocabulary, names=names, hard=1.0, seed=seed)


def validation(
    tests: Mapping[str, StoredScenes], words: WordTable, *, scenes: int
) -> Callable[[SegmentationModel], dict[str, float]]:
    """What training calls at times: mIoU on ``scenes`` scenes of the test of *seen* names, asked for what they show.

    A data set without such a test is not validated on: its novel classes are for the end.
    """

    def measure(model: SegmentationModel) -> dict[str, float]:
        if "seen" not in tests:
            return {}
        queries = present_queries(tests["seen"])[:scenes]
        return {"miou": evaluate(model, tests["seen"], words, queries, quiet=True).counts.miou}

    return measure
