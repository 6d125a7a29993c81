"""The Markdown page of the benchmarks' results, with an estimate of what the paper's trainings would cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusionerlib.config import RunConfig
from studies.paper_grid.cost import Rate, estimates
from studies.paper_grid.grid import Grid
from studies.performance.tables import GPU, TABLES, TITLES, Record, Row, machines, read_record, targets
from studies.tables import markdown_table

TEXTS = {
    "training": "`reference` is the paper's architecture image by image, with 32 templates of the name and the image "
    "through CLIP in every step, in float32; `cached` is the same with its names encoded once; `online` and `stored` "
    "are ours. Loss and gradients of both sides are compared before anything is timed. `% of matmul` and the others: "
    "the part's rate as a share of the rate that one matrix product, one 3x3 convolution or one memory copy reached on "
    "the same machine. GB moved: bytes that the operations read and write, without caches.",
    "inference": "`bare` calls the same parts once each: text once, all windows through encoder and fusion at once.",
    "scale": "The power is the slope of log(cost) against log(axis): 1 is linear.",
    "features": "A ratio is the store's rate divided by the rate of what it is compared with: the visual encoder "
    "alone, a file of the same bytes written to disk, its bytes read from disk, a copy of the same tensors in memory.",
    "data": "`bare` is Pillow alone (decode and resize), `ours` the loader with the paper's augmentation, both in "
    "processor time on one core; `workers` is in wall time.",
    "encoders": "`bare` is the network alone; `cost` is our time divided by its time.",
    "inspector": "Time from a change to the encoded picture; medians. In the browser: from the event of a key or the "
    "mouse until Chromium shows the new picture.",
}


def page(folder: Path, records: Mapping[str, Record], *, assumed: float, coco_epochs: int) -> str:
    """The page. assumed: TFLOP/s of a GPU that was not measured, for the estimate."""
    parts = [
        "# Performance",
        "Written by `notebooks/09_performance.ipynb` from the records of `make benchmarks`; the next call overwrites "
        "changes made here. Compared sides ran in turns in one process on the same threads. `fastest` is the fastest "
        "turn, which counts; `median` is the median of all turns.",
        "## The machine",
        machine_text(records),
        "## Targets",
        markdown(targets(records)),
        *(section(folder, name) for name in TITLES),
        "## The paper's grid and COCO-20i on one GPU: an estimate",
        estimate_text(records, assumed=assumed, coco_epochs=coco_epochs),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def machine_text(records: Mapping[str, Record]) -> str:
    """The machines of the records; a sentence if none has a GPU."""
    table = markdown(machines(records))
    return (
        table
        if any(name.endswith(GPU) for name in records)
        else f"{table}\nNone of these records was taken on a GPU.\n"
    )


def section(folder: Path, name: str) -> str:
    """The section of one benchmark, with the record of the processor and of a GPU if there is one.

    Raises FusionerError for a file that is not a record.
    """
    parts = [f"## {TITLES[name]}", TEXTS[name]]
    present = [name + kind for kind in ("", GPU) if (folder / f"{name}{kind}.json").is_file()]
    if not present:
        return f"{parts[0]}\n\nNot measured: `{folder}` has no record of `benchmarks/{name}.py`.\n"
    for key in present:
        record = read_record(folder, key)
        where = f", {record['machine'].get('gpu', 'GPU')}" if key.endswith(GPU) else ""
        for caption, rows in TABLES[name](record).items():
            parts.append(f"**{caption}{where}**\n\n{markdown(rows)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def rates(records: Mapping[str, Record], *, assumed: float) -> list[Rate]:
    """The rates of the recorded training steps, and the ``assumed`` rate of a GPU (TFLOP/s)."""
    found = []
    for name, where in (("training", "this processor"), (f"training{GPU}", "this GPU")):
        if name in records:
            found.append(Rate.measured(records[name]["machine"].get("gpu", where), records[name]))
    return [*found, Rate(f"{assumed:g} TFLOP/s assumed", assumed, assumed)]


def rate_rows(records: Mapping[str, Record], *, assumed: float) -> list[Row]:
    """``rates`` as a table; the measured ones with the machine's fastest matrix product."""
    measured = [records[name] for name in ("training", f"training{GPU}") if name in records]
    peaks = [record["ceilings"]["our"]["matmul"] / 1e3 for record in measured]
    return [
        {"machine": rate.label, "online TFLOP/s": rate.online, "stored TFLOP/s": rate.stored}
        | {"matmul TFLOP/s": peak, "online % of it": None if peak is None else round(100 * rate.online / peak)}
        for rate, peak in zip(rates(records, assumed=assumed), [*peaks, None], strict=True)
    ]


def estimate_text(records: Mapping[str, Record], *, assumed: float, coco_epochs: int) -> str:
    """The estimated cost of the paper's trainings, its assumptions, and the loading rate that it would need."""
    grid = Grid.load("paper")
    run = RunConfig.flat(**grid.run)
    sustained = rates(records, assumed=assumed)
    rows = estimates(grid, sustained, coco_epochs=coco_epochs)
    size = next(row for row in rows if row["trainings of"] == "the whole grid")
    lines = [
        "**This is an estimate; none of these trainings was run.** Counted are operations of visual encoder "
        f"and fusion (2 a multiply-add) for {run.training.epochs} epochs of the published training pairs at "
        f"{run.data.size} pixels on PASCAL-5i and {coco_epochs} on COCO-20i (the paper gives no other number "
        "for it). `days` runs the visual encoder in every step, which the paper's augmentation needs; "
        "`stored` reads its tokens from disk, so that every epoch has the same views. A measured rate is that "
        "of the step above (one pair of encoders), used for all pairs; the assumed rate is the notebook's "
        "`gpu_tflops`. Not counted: the text encoder (once a name), the optimiser at the assumed rate, "
        "augmentation, validation and tests.",
        markdown(rate_rows(records, assumed=assumed)),
        markdown(rows),
    ]
    needed = sustained[-1].online * 1e3 / (size["tower GFLOP"] + size["fusion GFLOP"])
    loading = f"At the assumed rate online training consumes {needed:,.0f} augmented images a second"
    if "data" in records:
        made = records["data"]["ours"]
        cores = math.ceil(needed / made)
        loading += f"; the loader makes {made:,.0f} a second on one core here (cores needed: {cores})"
    return "\n\n".join(line.strip() for line in [*lines, f"{loading}."]) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of ``rows``; numbers are whole or have three digits, missing ones are "-"."""
    return markdown_table(rows, number=_three_digits)


def _three_digits(value: int | float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"
