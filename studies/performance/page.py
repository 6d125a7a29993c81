"""The Markdown page of what the benchmarks measured, and of what the paper's trainings would cost from that."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.paper_grid.cost import Rate, estimates
from studies.paper_grid.grid import Grid
from studies.performance.tables import GPU, TABLES, TITLES, Record, Row, bars, machines, read_record
from studies.tables import markdown_table

TEXTS = {
    "training": "The reference is the paper's architecture image by image, with 32 templates of the name and the image "
    "through CLIP in every step, float32; `cached` is the same with its words encoded once. Loss and gradients of both "
    "sides agree before anything is timed. A part's share is of the most that the same machine was seen to do in one "
    "product of matrices, one 3x3 convolution, one copy of memory; bytes are those that each operation reads and "
    "writes, caches not counted.",
    "inference": "`bare` is the same parts called once each: text once, all windows through tower and fusion at once.",
    "scale": "The power is the slope between the logarithms of an axis and of what it costs: 1 is linear.",
    "features": "A ratio is the store's rate by that of what it is compared with: the tower alone, a plain file of the "
    "same bytes written to the disk, its bytes read from the disk, a copy of the same tensors in memory.",
    "data": "`bare` is Pillow alone (decode and resize) and `ours` the loader with the paper's augmentation, both on "
    "one core by the processor's time; `workers` is by the clock.",
    "encoders": "`bare` is the network alone; `cost` is the time of ours by that.",
    "inspector": "From a change to pictures that are ready to be sent; medians.",
}


def page(folder: Path, records: Mapping[str, Record], *, assumed: float, coco_epochs: int) -> str:
    """The whole page. assumed: TFLOP/s of a GPU that was not measured."""
    parts = [
        "# Performance",
        "Written by `notebooks/09_performance.ipynb` from the records of `make benchmarks`; changes here are lost. "
        "Sides that are compared ran in turns in one process, on the same threads; the fastest turn counts, and the "
        "median of the turns stands beside it.",
        "## The machine",
        machine_text(records),
        "## Bars",
        markdown(bars(records)),
        *(section(folder, name) for name in TITLES),
        "## The paper's grid and COCO-20i on one GPU: an estimate",
        estimate_text(records, assumed=assumed, coco_epochs=coco_epochs),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def machine_text(records: Mapping[str, Record]) -> str:
    """Every machine that the records name, and whether a GPU is among them."""
    table = markdown(machines(records))
    return table if any(name.endswith(GPU) for name in records) else f"{table}\nNo record here was taken on a GPU.\n"


def section(folder: Path, name: str) -> str:
    """One benchmark: its tables, from the processor and where there is one from a GPU.

    Raises FusionerError for a file that is no record. One that is missing is said to be, with the command.
    """
    parts = [f"## {TITLES[name]}", TEXTS[name]]
    present = [name + kind for kind in ("", GPU) if (folder / f"{name}{kind}.json").is_file()]
    if not present:
        return f"{parts[0]}\n\nNot measured here: `benchmarks/{name}.py` left no record in `{folder}`.\n"
    for key in present:
        record = read_record(folder, key)
        where = f", {record['machine'].get('gpu', 'GPU')}" if key.endswith(GPU) else ""
        for caption, rows in TABLES[name](record).items():
            parts.append(f"**{caption}{where}**\n\n{markdown(rows)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def rates(records: Mapping[str, Record], *, assumed: float) -> list[Rate]:
    """What the measured training steps sustain, and the rate that is ``assumed`` of a GPU (TFLOP/s)."""
    found = []
    for name, where in (("training", "this processor"), (f"training{GPU}", "this GPU")):
        if name in records:
            told = records[name]["machine"]
            found.append(Rate.measured(told.get("gpu", where), records[name]))
    return [*found, Rate(f"{assumed:g} TFLOP/s assumed", assumed, assumed)]


def rate_rows(records: Mapping[str, Record], *, assumed: float) -> list[Row]:
    """``rates`` as a table, the measured ones beside the machine's fastest product of matrices."""
    measured = [records[name] for name in ("training", f"training{GPU}") if name in records]
    most = [record["ceilings"]["our"]["matmul"] / 1e3 for record in measured]
    return [
        {"machine": rate.label, "online TFLOP/s": rate.online, "stored TFLOP/s": rate.stored}
        | {"matmul TFLOP/s": top, "online % of it": None if top is None else round(100 * rate.online / top)}
        for rate, top in zip(rates(records, assumed=assumed), [*most, None], strict=True)
    ]


def estimate_text(records: Mapping[str, Record], *, assumed: float, coco_epochs: int) -> str:
    """What the paper's trainings would take, what that assumes, and how fast images would have to be loaded."""
    grid = Grid.load("paper")
    sustained = rates(records, assumed=assumed)
    rows = estimates(grid, sustained, coco_epochs=coco_epochs)
    size = next(row for row in rows if row["trainings of"] == "the whole grid")
    lines = [
        "**This is an estimate, nothing of it was run.** Counted are operations of tower and fusion, two a "
        f"multiply-add, for {grid.epochs} epochs of the published training pairs at {grid.run['size']} pixels on "
        f"PASCAL-5i and {coco_epochs} on COCO-20i (the paper names no other number for it). `days` has the tower in "
        "every step, as the paper's augmentation needs; `stored` has its tokens on disk, so every epoch sees the same "
        "views. A measured rate is that of the step above (one pair of encoders) taken for all; the assumed one is the "
        "notebook's `gpu_tflops`. Left out: words (once a name), the optimiser where the rate is assumed, "
        "augmentation, validation and tests.",
        markdown(rate_rows(records, assumed=assumed)),
        markdown(rows),
    ]
    needed = sustained[-1].online * 1e3 / (size["tower GFLOP"] + size["fusion GFLOP"])
    told = f"At the assumed rate the online feed takes {needed:,.0f} augmented images a second"
    if "data" in records:
        made = records["data"]["ours"]
        cores = math.ceil(needed / made)
        enough = f"{cores} cores keep" if cores > 1 else "one core keeps"
        told += f"; the loader makes {made:,.0f} a second on a core here, so {enough} up"
    return "\n\n".join(line.strip() for line in [*lines, f"{told}."]) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table with all keys of ``rows``; numbers in three digits or whole, what is missing as "-"."""
    return markdown_table(rows, number=_three_digits)


def _three_digits(value: int | float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"
