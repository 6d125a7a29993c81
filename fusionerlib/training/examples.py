"""The examples of training: regions of the training images, found once, from which each step draws."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fusionerlib.datasets.names import canonical
from fusionerlib.models.examples import ExampleTable, Moments, coverage, region_token
from fusionerlib.progress import each
from fusionerlib.training.batch_sources import BatchSource

FEW = (1, 2, 5, 10, 20)
"""Numbers of examples of a name that has only a few."""
FEW_SHARE = 0.4
"""Share of the names that get only a few examples in a training step."""
SMALLEST = 0.5
"""Regions that cover less of the grid, in patches, are no examples."""
MOST_REGIONS = 2000
"""Regions of a name that are kept in memory to draw from; its sum counts all of them."""


class TrainingExamples:
    """Draws the examples of the names that a step asks; a scene is no example for itself.

    ``FEW_SHARE`` of the names get only a few, so that the model learns to do with few.
    table: the model's. regions: by name, the scenes and the tokens of its regions.
    """

    def __init__(self, table: ExampleTable, regions: Mapping[str, tuple[Sequence[int], Tensor]]) -> None:
        self.table = table
        self.scenes = {name: np.asarray(scenes) for name, (scenes, _) in regions.items()}
        self.regions = {name: tokens for name, (_, tokens) in regions.items()}

    def tokens(self, names: Sequence[str], *, scene: int, rng: np.random.Generator) -> Float[Tensor, "names channels"]:
        """``ExampleTable.tokens`` of ``names``, whose examples are from other scenes than ``scene``."""
        means = self.table.mean.new_zeros(len(names), self.table.width)
        counts = self.table.mean.new_zeros(len(names))
        for row, name in enumerate(map(canonical, names)):
            draw, few = rng.random(), int(rng.choice(FEW))
            if name not in self.table.names:
                continue
            place, own = self.table.names.index(name), self.regions.get(name)
            total, count = self.table.sums[place], self.table.counts[place]
            if own is not None:
                mine = self.scenes[name] == scene
                total, count = total - own[mine].sum(0), count - int(mine.sum())
                if draw < FEW_SHARE:
                    chosen = rng.permutation(np.flatnonzero(~mine))[:few]
                    total, count = own[chosen].sum(0), torch.tensor(float(len(chosen)))
            if count > 0:
                means[row], counts[row] = total / count, count
        return self.table.directions(means, counts)

    def of_samples(
        self, asked: Sequence[tuple[int, Sequence[str]]], most: int, *, seed: tuple[int, ...]
    ) -> Float[Tensor, "batch names channels"]:
        """The tokens of each (scene, names), padded with zeros to ``most`` names."""
        rng = np.random.default_rng(seed)
        rows = [self.tokens(names, scene=scene, rng=rng) for scene, names in asked]
        return torch.stack([F.pad(row, (0, 0, 0, most - len(row))) for row in rows])


def collect(source: BatchSource, table: ExampleTable, *, fit: bool, quiet: bool = False) -> TrainingExamples:
    """The regions of all names that ``source`` trains on, added to ``table``.

    fit: estimate mean and covariance from these images (``ExampleTable.fit``). Otherwise they stay, and the regions
    add to the examples that the table has.
    """
    trained = {canonical(name) for _, name in source.pairs()}
    scenes: dict[str, list[int]] = {}
    kept: dict[str, list[Tensor]] = {}
    totals: dict[str, tuple[Tensor, int]] = {}
    moments = Moments(table.width)
    for index in each(range(len(source)), "examples", total=len(source), unit="image", quiet=quiet):
        tokens, labels = source.scene(index)
        tokens, names = tokens[..., : table.width], source.names(index)
        if not bool(tokens.isfinite().all()):
            continue  # the step that draws this scene stops and names it
        moments.add(tokens.reshape(-1, table.width))
        shares = coverage(labels, (tokens.shape[0], tokens.shape[1]), len(names))
        for share, name in zip(shares[1:], map(canonical, names), strict=True):
            if name not in trained or share.sum() < SMALLEST:
                continue
            token = region_token(tokens, share)
            total, count = totals.get(name, (torch.zeros_like(token), 0))
            totals[name] = total + token, count + 1
            if count < MOST_REGIONS:
                scenes.setdefault(name, []).append(index)
                kept.setdefault(name, []).append(token)
    regions = {name: torch.stack(tokens) for name, tokens in kept.items()}
    if fit:
        table.fit(moments, regions)
    for name, (total, count) in sorted(totals.items()):
        table.add(name, total, count)
    # Regions stay on the CPU, where tokens of names are put together; the model's own table moves to its device.
    return TrainingExamples(
        copy.deepcopy(table).cpu(), {name: (scenes[name], tokens) for name, tokens in regions.items()}
    )
