"""Queries: which names a model is asked of which scene, by protocol, and the controls made of them.

Which episodes of a published list of (image, class) pairs are asked: three rules, each somebody's published one.

Numbers by different rules differ; a result says which it is by.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusionerlib.datasets.sampling import NameSampler
from fusionerlib.datasets.scene import Scenes
from fusionerlib.features.store import StoredScenes


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


Pair = tuple[int, str]
"""A scene's index and the one name that is asked of it."""
Rule = Literal["all", "hsnet", "authors"]
Inference = Literal["whole", "sliding"]
"""The image resized to the input size, or windows of that size over the image's own pixels."""
EPISODES = 1000
"""How many episodes the rules ``hsnet`` and ``authors`` ask, at most."""


def episodes(pairs: Sequence[Pair], *, rule: Rule, by_class: bool = False, seed: int = 0) -> list[Pair]:
    """The episodes of ``pairs`` in the order they are asked.

    all: every pair once. hsnet: 1,000, going round the list as often as it takes (HSNet's for PASCAL-5i), or with
    ``by_class`` a class drawn uniformly and then one of its pairs (HSNet's for COCO-20i; their generator's order is not
    published, ours is ``seed``'s). authors: the first 1,000 (Fusioner's), with ``by_class`` of the list sorted by
    scene.
    """
    if rule == "all" or not pairs:
        return list(pairs)
    if rule == "authors":
        return (sorted(pairs, key=lambda pair: pair[0]) if by_class else list(pairs))[:EPISODES]
    if not by_class:
        return [pairs[index % len(pairs)] for index in range(EPISODES)]
    rng = np.random.default_rng(seed)
    classes = list(dict.fromkeys(name for _, name in pairs))
    of_class = {name: [pair for pair in pairs if pair[1] == name] for name in classes}
    drawn = [of_class[classes[rng.integers(len(classes))]] for _ in range(EPISODES)]
    return [own[rng.integers(len(own))] for own in drawn]
