"""Which names a training sample is asked for: those in the scene, and absent ones that are hard to tell apart."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A scene (by index) and the names asked of it, the drawn pair's own name first."""

    scene: int
    names: tuple[str, ...]


class NameSampler:
    """Draws ``positives`` names of a scene at most, and fills up with absent ones to ``positives + negatives``.

    hard: the share of absent names that have a word in common with a name of the scene ("blue bicycle" for "red
    bicycle"). A name whose words are all part of a present name's, or the other way round, is never an absent one: a
    blue bicycle is a bicycle too. With ``positives=1, negatives=0`` this is the paper's sample.
    """

    def __init__(self, vocabulary: Sequence[str], *, positives: int, negatives: int, hard: float) -> None:
        self.vocabulary = list(vocabulary)
        self.positives, self.negatives, self.hard = positives, negatives, hard
        self._words = {name: frozenset(name.split()) for name in self.vocabulary}
        self._sharing: dict[str, list[str]] = defaultdict(list)
        for name in self.vocabulary:
            for word in self._words[name]:
                self._sharing[word].append(name)

    def draw(self, first: str, present: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """The names asked of a scene that holds ``present``, ``first`` among them and always asked."""
        others = [name for name in present if name != first]
        kept = [others[i] for i in rng.permutation(len(others))[: self.positives - 1]]
        return (first, *kept) if self.negatives == 0 else self.complete((first, *kept), present, rng)

    def complete(self, names: Sequence[str], present: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
        """``names`` and then absent ones, ``positives + negatives`` in all, for a scene that holds ``present``."""
        wanted = max(0, self.positives + self.negatives - len(names))
        hard = int(rng.binomial(wanted, self.hard))
        absent: list[str] = []
        # Word by word of the scene's names in turn, so that each word gets its look-alikes: with enough places, both
        # the same thing in another colour and another thing in the same colour are asked.
        words = [word for name in names for word in name.split()]
        for place in range(hard):
            absent += self._pick(self._sharing[words[place % len(words)]], 1, present, absent, rng)
        absent += self._pick(self.vocabulary, wanted - len(absent), present, absent, rng)
        return (*names, *absent)

    def _pick(
        self, pool: Sequence[str], count: int, present: Sequence[str], taken: Sequence[str], rng: np.random.Generator
    ) -> list[str]:
        chosen: list[str] = []
        if not pool or not count:
            return chosen
        # A small pool is gone through; of a large one, a few more draws than asked for, since some are refused.
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
    """The samples of any training step, from (seed, step) alone: resuming needs no generator's state.

    whole_epochs: each pass over ``pairs`` ends with its own, smaller batch; else batches go on into the next pass.
    rows: which rows of a batch of so many samples are this process's own, where several share every batch.
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
    ) -> None:
        self.pairs, self.scene_names, self.sampler = list(pairs), scene_names, sampler
        self.batch, self.seed, self.whole_epochs, self.rows = batch, seed, whole_epochs, rows
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, (_, name) in enumerate(self.pairs):
            self._places[name if balanced else ""].append(place)
        self._epoch, self._order = -1, np.arange(0)

    def samples(self, step: int) -> list[Sample]:
        """The batch of step ``step`` (from 0): consecutive pairs of a fresh permutation an epoch.

        With ``balanced`` each sample's name is drawn first, all alike, and then one of its pairs.
        """
        rng = np.random.default_rng((self.seed, 1, step))
        chosen = [self.pairs[self._position(draw)] for draw in self.draws(step)]
        return [Sample(scene, self.sampler.draw(name, self.scene_names[scene], rng)) for scene, name in chosen]

    def own_samples(self, step: int) -> list[Sample]:
        """Those of ``samples`` that are at ``rows``."""
        samples = self.samples(step)
        return samples[self.rows(len(samples))]

    def draws(self, step: int) -> range:
        """The places of the samples of step ``step`` among all draws of the training, from 0."""
        if not self.whole_epochs:
            return range(step * self.batch, (step + 1) * self.batch)
        epoch, batch = divmod(step, -(-len(self.pairs) // self.batch))
        all_draws = range(epoch * len(self.pairs), (epoch + 1) * len(self.pairs))
        return all_draws[batch * self.batch : (batch + 1) * self.batch]

    def own_draws(self, step: int) -> range:
        """Those of ``draws`` that are at ``rows``."""
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
