"""Which episodes of a published list of (image, class) pairs are asked: three rules, each somebody's published one.

Numbers by different rules differ; a result says which it is by.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

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
