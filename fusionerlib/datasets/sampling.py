"""Training samples: which scene, and which names are asked of it (names in the scene, and absent ones)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A scene (by index) and the names asked of it; the name of the drawn (scene, name) pair comes first."""

    scene: int
    names: tuple[str, ...]


class NameSampler:
    """Draws the names of a sample: at most ``positives`` of the scene, then absent ones, ``positives + negatives`` in
    all.

    vocabulary: the names to draw absent ones from. hard: the probability (0-1) that an absent name is a hard negative,
    one that shares a word with a name of the scene ("blue bicycle" for "red bicycle"). A name whose words are a subset
    or superset of those of a name of the scene is not absent: a blue bicycle is a bicycle too.
    ``positives=1, negatives=0`` is the paper's sample.
    """

    def __init__(self, vocabulary: Sequence[str], *, positives: int, negatives: int, hard: float) -> None:
        self.vocabulary = list(vocabulary)
        self.positives, self.negatives, self.hard = positives, negatives, hard
        self._pools: dict[frozenset[str], list[str]] = {}
        self._words = {name: frozenset(name.split()) for name in self.vocabulary}
        self._sharing: dict[str, list[str]] = defaultdict(list)
        for name in self.vocabulary:
            for word in self._words[name]:
                self._sharing[word].append(name)

    def draw(
        self,
        first: str,
        present: Sequence[str],
        rng: np.random.Generator,
        *,
        labelled: frozenset[str] | None = None,
    ) -> tuple[str, ...]:
        """The names asked of a scene with the names ``present``: ``first`` (one of them), others, then absent ones.

        labelled: the names that the scene's data set labels. Another one may be in the scene without a mask, so it is
        never asked as an absent one. None for all names.
        """
        others = [name for name in present if name != first]
        kept = [others[i] for i in rng.permutation(len(others))[: self.positives - 1]]
        return (first, *kept) if self.negatives == 0 else self.complete((first, *kept), present, rng, labelled)

    def complete(
        self,
        names: Sequence[str],
        present: Sequence[str],
        rng: np.random.Generator,
        labelled: frozenset[str] | None = None,
    ) -> tuple[str, ...]:
        """``names`` and then absent ones, ``positives + negatives`` in all, for a scene with the names ``present``."""
        wanted = max(0, self.positives + self.negatives - len(names))
        hard = int(rng.binomial(wanted, self.hard))
        absent: list[str] = []
        # The words of the names take turns, so that hard negatives share the colour of some and the noun of others.
        words = [word for name in names for word in name.split()]
        for place in range(hard):
            sharing = self._sharing[words[place % len(words)]]
            pool = sharing if labelled is None else [name for name in sharing if name in labelled]
            absent += self._pick(pool, 1, present, absent, rng)
        absent += self._pick(self._pool(labelled), wanted - len(absent), present, absent, rng)
        return (*names, *absent)

    def _pool(self, labelled: frozenset[str] | None) -> list[str]:
        if labelled is None:
            return self.vocabulary
        if labelled not in self._pools:
            self._pools[labelled] = [name for name in self.vocabulary if name in labelled]
        return self._pools[labelled]

    def _pick(
        self, pool: Sequence[str], count: int, present: Sequence[str], taken: Sequence[str], rng: np.random.Generator
    ) -> list[str]:
        chosen: list[str] = []
        if not pool or not count:
            return chosen
        # Permute a small pool; from a large one draw a few more than needed, since some are rejected.
        few = len(pool) <= 4 * count + 60
        for index in rng.permutation(len(pool)) if few else rng.integers(len(pool), size=4 * count + 8):
            name = pool[index]
            if name not in chosen and name not in taken and not any(self._overlap(name, other) for other in present):
                chosen.append(name)
            if len(chosen) == count:
                break
        return chosen

    def _overlap(self, name: str, present: str) -> bool:
        words, other = self._words[name], frozenset(present.split())
        return words <= other or other <= words


class SampleOrder:
    """The samples of any training step, from (seed, step) alone, so that resuming needs no generator state.

    pairs: the (scene index, name) pairs to draw from. scene_names: the names of every scene. sampler: adds the other
    names. batch: samples in a step. balanced: every name is drawn with the same probability, then one of its pairs;
    else every pair is drawn once in an epoch, in a new order each time.
    labelled: the names that the data set of a scene labels; None for all names.
    whole_epochs: an epoch ends with a smaller batch where ``batch`` does not divide it; else its last batch is filled
    from the next epoch.
    rows: for the size of a batch, the rows that belong to this process, where several processes share every batch.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, str]],
        scene_names: Sequence[tuple[str, ...]],
        *,
        sampler: NameSampler,
        batch: int,
        seed: int,
        balanced: bool = False,
        whole_epochs: bool = False,
        rows: Callable[[int], slice] = slice,
        labelled: Callable[[int], frozenset[str] | None] = lambda scene: None,
    ) -> None:
        self.pairs, self.scene_names, self.sampler = list(pairs), scene_names, sampler
        self.batch, self.seed, self.whole_epochs, self.rows = batch, seed, whole_epochs, rows
        self.labelled = labelled
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, (_, name) in enumerate(self.pairs):
            self._places[name if balanced else ""].append(place)
        self._epoch, self._order = -1, np.arange(0)

    def samples(self, step: int) -> list[Sample]:
        """The samples of step ``step`` (from 0)."""
        rng = np.random.default_rng((self.seed, 1, step))
        chosen = [self.pairs[self._position(draw)] for draw in self.draws(step)]
        return [
            Sample(scene, self.sampler.draw(name, self.scene_names[scene], rng, labelled=self.labelled(scene)))
            for scene, name in chosen
        ]

    def own_samples(self, step: int) -> list[Sample]:
        """The samples of step ``step`` at ``rows``."""
        samples = self.samples(step)
        return samples[self.rows(len(samples))]

    def draws(self, step: int) -> range:
        """The positions of the samples of step ``step`` among all samples of the training, from 0."""
        if not self.whole_epochs:
            return range(step * self.batch, (step + 1) * self.batch)
        epoch, batch = divmod(step, -(-len(self.pairs) // self.batch))
        all_draws = range(epoch * len(self.pairs), (epoch + 1) * len(self.pairs))
        return all_draws[batch * self.batch : (batch + 1) * self.batch]

    def own_draws(self, step: int) -> range:
        """The positions ``draws(step)`` at ``rows``."""
        draws = self.draws(step)
        return draws[self.rows(len(draws))]

    def _position(self, count: int) -> int:
        if len(self._places) > 1:
            rng = np.random.default_rng((self.seed, 2, count))
            own = list(self._places.values())[rng.integers(len(self._places))]
            return own[rng.integers(len(own))]
        epoch, place = divmod(count, len(self.pairs))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.pairs))
            self._epoch = epoch
        return int(self._order[place])
