"""Ablations and methods beside what was published. The paper's ablation tables and its figures on Mosaic-4 were not
published anywhere that we could find, so their cells are holes; its table of pairs, early and late, was."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.evaluation.metrics import metric_label
from studies.methods.study import Figures
from studies.published import HOLE, Published, rows

PUBLISHED = "published: PASCAL-5i mIoU"
PAPER_NAMES = {"clip-vit-b": "CLIP-B", "clip-vit-l": "CLIP-L", "dino-vitb": "DINO-B", "mocov3-vitb": "MoCo-B"}
PAPER_TEXTS = {**PAPER_NAMES, "bert-base": "BERT-B", "bert-large": "BERT-L"}
"""The paper's names by the start of ours; it does not say which patch its ViT-B has."""

METHOD_FIGURES = ("assignment", "miou", "miou_permuted")
"""Of each method, on the main mosaics."""

Line = dict[str, str]


def ablation_tables(found: Sequence[Mapping[str, Any]], *, pair: PairConfig) -> dict[str, list[Line]]:
    """For each ablation a line a setting: parameters, our figures in percent, and the published number or a hole.

    found: rows of ``ablation.ablate``. A figure is the mean over seeds, with their standard deviation behind a ± where
    there are several. pair: the run's, by which the published early and late fusion are looked up.
    """
    tables: dict[str, list[Line]] = {}
    for ablation, setting in dict.fromkeys((row["ablation"], row["setting"]) for row in found):
        own = [row for row in found if (row["ablation"], row["setting"]) == (ablation, setting)]
        line = {"setting": setting, "parameters": f"{own[0]['parameters']:,}"}
        for metric in dict.fromkeys(row["metric"] for row in own):
            line[metric_label(metric)] = spread([row["value"] for row in own if row["metric"] == metric])
        tables.setdefault(ablation, []).append({**line, PUBLISHED: _published(ablation, setting, pair)})
    return tables


def pair_lines(found: Sequence[Mapping[str, Any]], *, run: RunConfig) -> list[Line]:
    """The paper's table of pairs with early and late fusion, in percent as printed, under the pairs of ours.

    found: rows of ``ablation.ablate``, of which "pair" and "where they meet" are read; ours is the last of their
    metrics, the mIoU of the hardest split. run: the one that was varied, whose fusion the ablation "pair" had.
    """
    metric = found[-1]["metric"]
    shown = metric_label(metric)
    kind = {"fusioner": "early", "late": "late"}.get(run.fusion.kind, "")
    ours: dict[tuple[str, str], list[float]] = {}
    for row in found:
        if row["metric"] == metric and row["ablation"] == "pair" and kind:
            ours.setdefault((row["setting"], kind), []).append(row["value"])
        elif row["metric"] == metric and row["ablation"] == "where they meet":
            ours.setdefault((f"{run.pair.visual} / {run.pair.text}", row["setting"]), []).append(row["value"])
    printed = {(f"{row.visual} / {row.text}", row.fusion): cell(row.mean) for row in rows("pascal-5i") if row.text}
    called = {pair: _paper_pair(pair) for pair, _ in ours}
    others = [pair for pair, fusion in printed if fusion == "early" and pair not in called.values()]
    return [
        {
            "pair": pair,
            **{f"ours: {shown}, {each}": spread(ours.get((pair, each), [math.nan])) for each in ("early", "late")},
            **{f"{PUBLISHED}, {each}": printed.get((name, each), HOLE) for each in ("early", "late")},
        }
        for pair, name in [*called.items(), *((pair, pair) for pair in others)]
    ]


def method_lines(found: Mapping[str, tuple[int, Figures]], *, main: str) -> list[Line]:
    """A line for each method that was measured here, then one for each published system, in percent.

    found: by name, trainable parameters and figures (``methods.compare``). main: the split whose figures are shown.
    Published systems have none on mosaics, and ours none on PASCAL-5i: both are holes.
    """
    lines = []
    for name, (parameters, figures) in found.items():
        own = {f"{metric_label(key)}, {main}": cell(100 * figures[main][key]) for key in METHOD_FIGURES}
        lines.append({"method": name, "parameters": f"{parameters:,}", **own, PUBLISHED: HOLE, "source": "this run"})
    holes = dict.fromkeys(lines[0], HOLE) if lines else {}
    return lines + [{**holes, **_quoted(row)} for row in rows("pascal-5i") if not row.text]


def lines_by_test(found: Mapping[str, tuple[int, Figures]]) -> list[Line]:
    """A line for each test, the mIoU of each method in percent: how far each falls where mosaics get harder."""
    tests = dict.fromkeys(test for _, figures in found.values() for test in figures)
    return [
        {
            "mIoU": test,
            **{name: cell(100 * own[test]["miou"]) if test in own else HOLE for name, (_, own) in found.items()},
        }
        for test in tests
    ]


def spread(values: Sequence[float]) -> str:
    """Mean of figures in 0-1 as percent, with ± their standard deviation where there are several."""
    mean = cell(100 * statistics.mean(values))
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def cell(percent: float) -> str:
    """One decimal, or a hole for NaN."""
    return HOLE if math.isnan(percent) else f"{percent:.1f}"


def _quoted(row: Published) -> Line:
    source = row.source if row.source.startswith("quoted") else f"quoted from {row.source}"
    return {"method": f"{row.model} {row.visual}", PUBLISHED: cell(row.mean), "source": source}


def _published(ablation: str, setting: str, pair: PairConfig) -> str:
    """What the paper printed for this very pair and fusion: of pairs (early) and of where they meet."""
    if ablation not in ("pair", "where they meet"):
        return HOLE
    fusion = "early" if ablation == "pair" else setting
    name = _paper_pair(setting if ablation == "pair" else f"{pair.visual} / {pair.text}")
    own = [row for row in rows("pascal-5i") if (f"{row.visual} / {row.text}", row.fusion) == (name, fusion)]
    return f"{cell(own[0].mean)} ({name})" if own else HOLE


def _paper_pair(pair: str) -> str:
    """What the paper calls ``pair``, "" on a side that it does not have."""
    visual, _, text = pair.partition(" / ")
    sides = ((visual, PAPER_NAMES), (text, PAPER_TEXTS))
    return " / ".join(
        next((paper for start, paper in names.items() if name.startswith(start)), "") for name, names in sides
    )
