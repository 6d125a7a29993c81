"""What the paper's trainings would cost on one machine: operations, counted and not timed, and the days they make.

An estimate: counted are the products and convolutions of the tower's forward and of the fusion's forward and backward,
two a multiply-add. Left out: words (encoded once a name), the stored feed's one pass of the tower over each image
(under 1 % of a training), the optimiser, augmentation, validation and tests.
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
"""Blocks and width of the vision transformers of the paper's grid."""

PAIRS: Mapping[str, Callable[[int], int]] = {
    "PASCAL-5i": pascal.training_pair_count,
    "COCO-20i": lambda fold: len(coco.fold_pairs(fold, "train")),
}
"""How many (image, class) pairs train where a fold is held out."""

WORDS = 768
"""Channels of a word's token, one of the grid's: with the others a training costs the same within 1e-5."""

BEST = ("clip-vit-l14", "clip-vit-l14")
"""The pair that the paper trains on COCO-20i."""


@dataclass(frozen=True)
class Rate:
    """Operations a second (10^12) that a training sustains: with the tower in every step, and on stored features."""

    label: str
    online: float
    stored: float

    @classmethod
    def measured(cls, label: str, record: Mapping[str, Any]) -> "Rate":
        """That of the steps in a record of benchmarks/training.py: its operations by its fastest turns."""
        work, seconds = record["modern"]["bmvc2022"], record["bmvc2022"]["seconds"]
        fusion, tower = work["fusion_gigaflops"] / 1e3, work["tower_gigaflops"] / 1e3
        return cls(label, (fusion + tower) / min(seconds["online"]), fusion / min(seconds["stored"]))


def tower_flops(visual: str, *, size: int) -> int:
    """Operations of one image of ``size`` pixels through a tower of the grid: patches, blocks, CLIP's projection.

    Raises FusionerError for a tower whose blocks are not known here.
    """
    if visual not in TOWERS:
        raise FusionerError(f"the cost of the tower {visual!r} is not known: expected one of {', '.join(TOWERS)}")
    (blocks, width), row = TOWERS[visual], get_spec("visual", visual)
    patches = (size // row.stride) ** 2
    tokens = patches + 1
    # Attention's four products with weights and the MLP's two, and tokens with tokens twice.
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    projection = 2 * patches * width * row.width if row.family == "CLIP" else 0
    return 2 * patches * 3 * row.stride**2 * width + blocks * block + projection


def fusion_flops(grid: Grid, *, visual: str, fusion: str) -> int:
    """Operations of one training image through the fusion of the patches of ``visual``, forward and backward."""
    row = get_spec("visual", visual)
    run = RunConfig.flat(**grid.run, kind=FUSIONS[fusion])
    return _counted(run.model_dump_json(), row.width, row.stride)


def images_shown(grid: Grid, dataset: str, *, epochs: int) -> int:
    """Images that one training on each fold is shown, all folds together; an epoch drops its last, smaller batch."""
    batch = RunConfig.flat(**grid.run).training.batch
    return sum(epochs * (PAIRS[dataset](fold) // batch) * batch for fold in grid.folds)


def estimates(grid: Grid, rates: Sequence[Rate], *, coco_epochs: int) -> list[dict[str, Any]]:
    """A row for each tower and fusion on PASCAL-5i, for the whole grid, for the paper's pair on COCO-20i, and for the
    grid there: trainings, millions of images shown, mean GFLOP an image of tower and fusion, EFLOP of all with the
    tower in every step, and by each rate the days of one machine, online and on stored features."""
    size = RunConfig.flat(**grid.run).data.size
    towers = list(dict.fromkeys(visual for visual, _ in grid.pairs))
    parts = {
        f"{visual}, {fusion}": [(pair, fusion) for pair in grid.pairs if pair[0] == visual]
        for visual, fusion in product(towers, grid.fusions)
    }
    whole = [part for some in parts.values() for part in some]
    tasks: list[tuple[str, str, list[tuple[tuple[str, str], Any]], int]] = [
        ("PASCAL-5i", name, some, grid.epochs) for name, some in {**parts, "the whole grid": whole}.items()
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
    # Tensors that have a shape and no content: the count is the same, and nothing is computed.
    with FakeTensorMode():
        config = RunConfig.model_validate_json(run)
        return training_cost(config, visual_width=width, text_width=WORDS, stride=stride)["flops"]
