"""Evaluation: queries to probabilities to counts. Protocols differ only in their queries and in what is counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from fusionerlib.features import StoredScenes
from fusionerlib.fusion import SegmentationModel
from fusionerlib.metrics import ClassCounts, decide
from fusionerlib.sampling import NameSampler
from fusionerlib.words import WordTable

RECORD_NAMES = {
    "seen": "seen_names",
    "combinations": "unseen_combinations",
    "objects": "unseen_objects",
    "novel": "novel_classes",
    "validation": "validation",
}
"""What ``metrics.json`` calls the tests."""


@dataclass(frozen=True)
class Query:
    """One question: the names asked of one scene, in this order."""

    scene: int
    names: tuple[str, ...]


def present_queries(scenes: StoredScenes) -> list[Query]:
    """Every scene asked for exactly the names that are in it."""
    return [Query(index, scenes.names(index)) for index in range(len(scenes))]


def single_queries(pairs: Sequence[tuple[int, str]]) -> list[Query]:
    """Every (scene, name) pair on its own: the episodes of PASCAL-5i (paper)."""
    return [Query(scene, (name,)) for scene, name in pairs]


def distractor_queries(
    scenes: StoredScenes, *, vocabulary: Sequence[str], names: int, hard: float, seed: int
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
) -> Iterator[tuple[Query, Float[np.ndarray, "names height width"], np.ndarray]]:
    """Each query with its probabilities (0-1) at the labels' size, and the labels by the query's names.

    In those labels k + 1 is ``query.names[k]``, 0 everything else, 255 ignored. Scenes must share one grid and size.
    """
    words.add(name for query in queries for name in query.names)
    device = model.category.device
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
            yield query, maps[: len(query.names)], relabelled(scene.labels.numpy(), scene.names, query.names)
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
    quiet: bool = False,
) -> Evaluation:
    """All ``queries`` answered: argmax over each query's names, background at or under ``threshold``.

    Only names that some scene of ``queries`` shows are counted as classes; what was painted for the others still
    costs the classes whose pixels it took.
    """
    shown = {name for query in queries for name in scenes.names(query.scene)}
    counts, scores = ClassCounts(), []
    for query, probabilities, target in predict(model, scenes, words, queries, quiet=quiet):
        episode = ClassCounts()
        episode.add(query.names, decide(probabilities, threshold=threshold), target)
        scores.append((query, episode.only(scenes.names(query.scene)).miou))
        counts.merge(episode)
    return Evaluation(counts.only(shown), scores)


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
