"""Tables of the study: means over classes, spreads over seeds, gains over ``modern``, and operations per image."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fusionerlib.config import RunConfig
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.files import write_text
from fusionerlib.models import build
from studies.cost_aggregation.study import BASE, CLASSES, CostAggregationStudy, Trial
from studies.tables import markdown_table


def training_cost(run: RunConfig, *, visual_width: int, text_width: int, stride: int = 16) -> dict[str, int]:
    """FLOPs of a training image at ``run.data.size`` with its names (forward and backward, 2 a multiply-add), number of
    trainable parameters, number of names. Counted are matrix products and convolutions, not elementwise operations.

    visual_width, text_width: channels of the frozen tokens. stride: pixels a token.
    """
    training, size = run.training, run.data.size
    names, loss = training.positives + training.negatives, -(-size // training.loss_stride)
    model = build(run.fusion, visual_width=visual_width, text_width=text_width).train()
    patches, words = torch.rand(1, (size // stride) ** 2, visual_width), torch.rand(1, names, text_width)
    words = model.with_examples(words, [""] * names)
    with FlopCounterMode(display=False) as counter:
        logits = model(patches, words, grid=(size // stride, size // stride), size=(loss, loss))
        logits.sum().backward()
    return {"flops": counter.get_total_flops(), "parameters": model.trainable()["total"], "names": names}


def gigaflops(study: CostAggregationStudy, settings: Iterable[str]) -> dict[str, float]:
    """GFLOPs of a training image by setting, at the setting's own input size and number of names."""
    runs = {name: study.run_of(Trial(name, study.folds[0], study.seeds[0], 1)) for name in settings}
    return {name: cost["flops"] / 1e9 for name, cost in costs(runs).items()}


def costs(runs: Mapping[str, RunConfig]) -> dict[str, dict[str, int]]:
    """``training_cost`` of each run, with the widths of its encoders, which are loaded."""
    widths = {run.pair: (visual_of(run.pair).width, text_cache_of(run.pair).encoder.width) for run in runs.values()}
    return {
        name: training_cost(run, visual_width=widths[run.pair][0], text_width=widths[run.pair][1])
        for name, run in runs.items()
    }


def compared_costs(study: CostAggregationStudy) -> list[dict[str, Any]]:
    """``modern`` and the paper's module on the packaged pair at 224 pixels: parameters, names an image, GFLOPs a
    training image, percent of the paper's GFLOPs."""
    modern = study.model_copy(update={"size": 224}).run_of(Trial(BASE, study.folds[0], 0, 1))
    paper = RunConfig.flat(preset="bmvc2022", recipe="bmvc2022", size=224)
    found = costs({BASE: modern, "bmvc2022": paper})
    whole = found["bmvc2022"]["flops"]
    return [
        {
            "config": name,
            "parameters": cost["parameters"],
            "names": cost["names"],
            "GFLOPs": round(cost["flops"] / 1e9, 2),
            "% of the paper's": round(100 * cost["flops"] / whole, 2),
        }
        for name, cost in found.items()
    ]


Row = Mapping[str, Any]

FIGURES = ("one", "absent", "all", "harmonic", "painted novel", "painted seen")
"""Figures of a setting in percent. Lower is better for ``absent`` and the two predicted areas (painted)."""


def by_seed(rows: Iterable[Row], setting: str) -> dict[int, dict[str, float]]:
    """The figures (percent) of ``setting`` by seed: IoU as the mean over all folds' classes, others over folds.

    Only seeds with all folds of the setting are returned. ``perfect`` exists for cost aggregation only.
    """
    found = [row for row in rows if row["setting"] == setting]
    folds = {row["fold"] for row in found}
    seeds = sorted({row["seed"] for row in found})
    complete = {seed: [row for row in found if row["seed"] == seed] for seed in seeds}
    return {seed: _figures(parts) for seed, parts in complete.items() if {row["fold"] for row in parts} == folds}


def _figures(rows: Sequence[Row]) -> dict[str, float]:
    kinds = [kind for kind in ("one", "absent", "all", "perfect") if all(kind in row for row in rows)]
    figures = {kind: 100 * _mean(level for row in rows for level in row[kind].values()) for kind in kinds}
    figures["harmonic"] = 100 * _mean(row["triple"]["harmonic"] for row in rows)
    for kind in ("novel", "seen"):
        figures[f"painted {kind}"] = 100 * _mean(row["painted"][kind] for row in rows)
    figures["parameters"] = rows[0]["parameters"]
    return figures


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row a setting, in the order of ``rows``: number of seeds, means of ``FIGURES``, parameters. For ``one`` and
    ``all`` also the spread (standard deviation over seeds) and the gain over ``modern`` with the same seeds."""
    base = by_seed(rows, BASE)
    table = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = by_seed(rows, setting)
        if not own:
            continue
        shared = [seed for seed in own if seed in base]
        row: dict[str, Any] = {"setting": setting, "seeds": len(own)}
        for figure in FIGURES:
            row[figure] = _mean(found[figure] for found in own.values())
            if figure in ("one", "all"):
                levels = [found[figure] for found in own.values()]
                row[f"{figure} spread"] = statistics.stdev(levels) if len(levels) > 1 else math.nan
                row[f"{figure} gain"] = _mean(own[seed][figure] - base[seed][figure] for seed in shared)
        row["parameters"] = int(next(iter(own.values()))["parameters"])
        table.append(row)
    return table


def by_class(rows: Sequence[Row], setting: str, kind: str) -> dict[str, float]:
    """IoU (percent) of ``setting`` by class, the mean over seeds; kind: one, absent, all or perfect."""
    parts = [row[kind] for row in rows if row["setting"] == setting and kind in row]
    return {
        name: 100 * _mean(part[name] for part in parts if name in part)
        for name in CLASSES
        if any(name in part for part in parts)
    }


def by_threshold(rows: Sequence[Row], setting: str) -> list[dict[str, Any]]:
    """The figures (percent) of ``setting`` at each threshold: means over classes, folds and seeds."""
    own = [row for row in rows if row["setting"] == setting]
    levels = list(own[0]["at"]) if own else []
    table = []
    for level in levels:
        parts = [row["at"][level] for row in own]
        row: dict[str, Any] = {"threshold": level}
        for kind in ("one", "absent", "all"):
            row[kind] = 100 * _mean(value for part in parts for value in part[kind].values())
        for kind in ("novel", "seen"):
            row[f"painted {kind}"] = 100 * _mean(part["painted"][kind] for part in parts)
        table.append(row)
    return table


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return statistics.fmean(kept) if kept else math.nan


def write_tables(study: CostAggregationStudy, tables: Mapping[str, Any]) -> Path:
    """Write pandas ``tables`` by title as Markdown into ``table.md`` of the study's folder; returns the file."""
    rows = {title: markdown_table(table.reset_index().to_dict("records")) for title, table in tables.items()}
    write_text(study.folder / "table.md", "\n".join(f"## {title}\n\n{table}" for title, table in rows.items()))
    return study.folder / "table.md"
