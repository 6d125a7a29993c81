"""Queries: which names a model is asked for in which scene. One function for each protocol and each control.

Results under different episode rules are not comparable, so every result names its rule.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusionerlib.datasets.sampling import NameSampler
from fusionerlib.datasets.scene import Scenes
from fusionerlib.features.store import StoredScenes

Pair = tuple[int, str]
"""The index of a scene and one name in it: an episode of PASCAL-5i or COCO-20i."""
Rule = Literal["all", "hsnet", "authors"]
"""Which of the published pairs are asked, see ``episodes``."""
Inference = Literal["whole", "sliding"]
"""Either the image resized to the input size, or windows of that size over the image at its own size."""
EPISODES = 1000
"""Number of episodes under the rules ``hsnet`` and ``authors`` (``authors``: at most)."""


@dataclass(frozen=True)
class Query:
    """One question to the model.

    scene: index of the scene. names: the names asked together, in this order.
    scored_as: for a control, the names whose masks the predictions are compared with; () compares with ``names``.
    """

    scene: int
    names: tuple[str, ...]
    scored_as: tuple[str, ...] = ()

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names whose masks the predictions are compared with, in the order of ``names``."""
        return self.scored_as or self.names


def present_queries(scenes: StoredScenes) -> list[Query]:
    """Ask every scene for exactly the names that it shows."""
    return [Query(index, scenes.names(index)) for index in range(len(scenes))]


def single_queries(pairs: Sequence[Pair]) -> list[Query]:
    """The single-prompt protocol: one query for each (scene, name) pair, as in PASCAL-5i (paper)."""
    return [Query(scene, (name,)) for scene, name in pairs]


def absent_queries(
    queries: Sequence[Query], *, present: Callable[[int], Collection[str]], vocabulary: Sequence[str], seed: int
) -> list[Query]:
    """The absent-prompt control of single-prompt ``queries``.

    Each query asks for a random name of ``vocabulary`` that its scene does not show; the prediction is compared with
    the mask of the name that was asked originally. present: gives all names in a scene, asked or not. A scene that
    shows the whole vocabulary is skipped. seed: of the random names.
    """
    controls = []
    for place, query in enumerate(queries):
        absent = [name for name in vocabulary if name not in present(query.scene)]
        if absent:
            name = absent[int(np.random.default_rng((seed, place)).integers(len(absent)))]
            controls.append(Query(query.scene, (name,), scored_as=query.names))
    return controls


def distractor_queries(
    scenes: Scenes | StoredScenes, *, vocabulary: Sequence[str], names: int, hard: float, seed: int
) -> list[Query]:
    """Ask every scene for its own names and for absent names of ``vocabulary``, ``names`` in total, shuffled.

    hard: share (0-1) of the absent names that have a word in common with a name of the scene, such as "red ball" for
    "red car". seed: of the absent names and of the order.
    """
    queries = []
    sampler = NameSampler(vocabulary, positives=1, negatives=names - 1, hard=hard)
    for index in range(len(scenes)):
        rng = np.random.default_rng((seed, index))
        asked = sampler.complete(scenes.names(index), scenes.names(index), rng)
        queries.append(Query(index, tuple(asked[i] for i in rng.permutation(len(asked)))))
    return queries


def shuffled(queries: Sequence[Query], *, seed: int) -> list[Query]:
    """The same queries, the names of each in a random order drawn from ``seed`` and the scene's index."""
    rngs = [np.random.default_rng((seed, query.scene)) for query in queries]
    return [
        Query(query.scene, tuple(query.names[i] for i in rng.permutation(len(query.names))))
        for query, rng in zip(queries, rngs, strict=True)
    ]


def episodes(pairs: Sequence[Pair], *, rule: Rule, by_class: bool = False, seed: int = 0) -> list[Pair]:
    """The pairs that are asked under ``rule``, in order. by_class: the variant for COCO-20i.

    all: every pair once.
    hsnet: 1,000 episodes as in HSNet. PASCAL-5i takes pair i modulo the length of the list, the same episodes as HSNet.
        COCO-20i (``by_class``) draws a class uniformly, then one of its pairs: HSNet's distribution, but other
        episodes, since HSNet draws queries and supports together from one generator (seed 0, one process).
    authors: the first 1,000 pairs, as in Fusioner's evaluation; for COCO-20i (``by_class``) of the list sorted by
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
