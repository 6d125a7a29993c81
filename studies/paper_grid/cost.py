"""An estimate of the cost of the paper's trainings: counted operations, and days at a given rate.

Counted: matrix products and convolutions of the visual encoder's forward pass and of the fusion's forward and backward
pass, 2 operations a multiply-add. Not counted: the text encoder (once a name), the one pass over the images that stored
features need (under 1 % of a training), the optimiser, augmentation, validation and tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from fusionerlib.config import RunConfig
from fusionerlib.datasets import coco, pascal
from fusionerlib.encoders.registry import get_spec
from fusionerlib.errors import FusionerError
from studies.cost_aggregation.tables import training_cost
from studies.encoder_pairs.study import FUSIONS
from studies.paper_grid.grid import Grid

TOWERS = {"clip-vit-b16": (12, 768), "clip-vit-l14": (24, 1024), "dino-vitb16": (12, 768), "mocov3-vitb16": (12, 768)}
"""Number of blocks and width of the vision transformers of the paper's grid."""

PAIRS: Mapping[str, Callable[[int], int]] = {
    "PASCAL-5i": pascal.training_pair_count,
    "COCO-20i": lambda fold: len(coco.fold_pairs(fold, "train")),
}
"""The number of training pairs (image, class) if a fold is held out."""

WORDS = 768
"""Channels of a text token. Other widths of the grid change a training's cost by less than 1e-5."""

BEST = ("clip-vit-l14", "clip-vit-l14")
"""The pair that the paper trains on COCO-20i."""


@dataclass(frozen=True)
class Rate:
    """TFLOP/s of a training: with the visual encoder in every step (online), and on stored features."""

    label: str
    online: float
    stored: float

    @classmethod
    def measured(cls, label: str, record: Mapping[str, Any]) -> "Rate":
        """The rate in a record of benchmarks/training.py: operations of a step by its fastest time."""
        operations, seconds = record["modern"]["bmvc2022"], record["bmvc2022"]["seconds"]
        fusion, tower = operations["fusion_gigaflops"] / 1e3, operations["tower_gigaflops"] / 1e3
        return cls(label, (fusion + tower) / min(seconds["online"]), fusion / min(seconds["stored"]))


def tower_flops(visual: str, *, size: int) -> int:
    """Operations of a forward pass of one image of ``size`` x ``size`` pixels: patch embedding, blocks, projection.

    Raises FusionerError for an encoder that is not in ``TOWERS``.
    """
    if visual not in TOWERS:
        raise FusionerError(f"the cost of the tower {visual!r} is not known: expected one of {', '.join(TOWERS)}")
    (blocks, width), row = TOWERS[visual], get_spec("visual", visual)
    patches = (size // row.stride) ** 2
    tokens = patches + 1
    # A block: 12 width^2 weights applied to every token, and the two products of attention between tokens.
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    projection = 2 * patches * width * row.width if row.family == "CLIP" else 0
    return 2 * patches * 3 * row.stride**2 * width + blocks * block + projection


def fusion_flops(grid: Grid, *, visual: str, fusion: str) -> int:
    """Operations of the fusion for one training image, forward and backward."""
    row = get_spec("visual", visual)
    run = RunConfig.flat(**grid.run, kind=FUSIONS[fusion])
    return _counted(run.model_dump_json(), row.width, row.stride)


def images_shown(grid: Grid, dataset: str, *, epochs: int) -> int:
    """Number of images that one training on each fold processes, summed over folds: one for each pair and epoch."""
    return sum(epochs * PAIRS[dataset](fold) for fold in grid.folds)


def estimates(grid: Grid, rates: Sequence[Rate], *, coco_epochs: int) -> list[dict[str, Any]]:
    """Cost of each visual encoder and fusion on PASCAL-5i, of the whole grid, and of the paper's pair and the grid on
    COCO-20i. A row: number of trainings, million images, mean GFLOP an image of visual encoder and fusion, EFLOP of all
    with the visual encoder in every step, and days at each rate, online and on stored features."""
    run = RunConfig.flat(**grid.run)
    size = run.data.size
    towers = list(dict.fromkeys(visual for visual, _ in grid.pairs))
    parts = {
        f"{visual}, {fusion}": [(pair, fusion) for pair in grid.pairs if pair[0] == visual]
        for visual, fusion in product(towers, grid.fusions)
    }
    whole = [part for some in parts.values() for part in some]
    tasks: list[tuple[str, str, list[tuple[tuple[str, str], Any]], int]] = [
        ("PASCAL-5i", name, some, run.training.epochs) for name, some in {**parts, "the whole grid": whole}.items()
    ]
    best = [(BEST, "early")]
    tasks += [("COCO-20i", f"{BEST[0]}, early, its own words", best, coco_epochs)]
    tasks += [("COCO-20i", "the whole grid", whole, coco_epochs)]
    rows = []
    for dataset, name, some, epochs in tasks:
        shown = images_shown(grid, dataset, epochs=epochs)
        fusion = sum(fusion_flops(grid, visual=pair[0], fusion=kind) for pair, kind in some)
        tower = sum(tower_flops(pair[0], size=size) for pair, _ in some)
        row: dict[str, Any] = {"data": dataset, "trainings of": name, "trainings": len(some) * len(grid.folds)}
        row |= {"million images": shown * len(some) / 1e6}
        row |= {"tower GFLOP": tower / len(some) / 1e9, "fusion GFLOP": fusion / len(some) / 1e9}
        row |= {"EFLOP": shown * (tower + fusion) / 1e18}
        for rate in rates:
            row[f"days, {rate.label}"] = shown * (tower + fusion) / rate.online / 1e12 / 86400
            row[f"stored, {rate.label}"] = shown * fusion / rate.stored / 1e12 / 86400
        rows.append(row)
    return rows


@cache
def _counted(run: str, width: int, stride: int) -> int:
    # Fake tensors have a shape and no data: operations are counted and not computed.
    with FakeTensorMode():
        config = RunConfig.model_validate_json(run)
        return training_cost(config, visual_width=width, text_width=WORDS, stride=stride)["flops"]
