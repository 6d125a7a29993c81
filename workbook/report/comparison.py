"""The tables of a run beside the published ones: our figure next to what was printed, and a hole where there is none.

Figures are mIoU or shares in percent. Published rows are quoted, never measured here, and their source says so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError
from studies.published import FOLDS, HOLE
from workbook.report.results import notebook_records, part, run_settings

Line = dict[str, str]

OURS = "(ours)"
"""The end of the name of a row that this run measured."""

PAIRS = {"pascal-5i": (346, 451, 725, 346)}
"""Validation pairs in the published lists, fold by fold: fewer of them is another test than the paper's."""


@dataclass(frozen=True)
class Beside:
    """One table. lines: rows of column to text. folded: it opens by a click. covers: what of the metrics it shows."""

    title: str
    note: str
    lines: list[Line]
    folded: bool = False
    covers: str = ""


def beside_published(folder: Path, metrics: Mapping[str, Any]) -> list[Beside]:
    """The tables that the run in ``folder`` has figures for, its protocol's first.

    A record of another version that can't be read any more gives a table without lines, whose note says why.
    """
    records = notebook_records(folder)
    makers: list[tuple[str, Callable[[], list[Beside]]]] = [
        ("The paper's protocols", lambda: _protocols(run_settings(folder), metrics)),
        ("Ablations", lambda: _ablations(records.get("04_ablations", {}), run_settings(folder))),
        ("Methods on the same mosaics", lambda: _methods(records.get("05_mosaic4_robustness", {}), metrics)),
        ("Pairs of encoders", lambda: _pairs(records.get("07_encoder_pairs", {}))),
    ]
    found: list[Beside] = []
    for title, make in makers:
        try:
            found += make()
        except (FusionerError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            found.append(Beside(title, f"The record can't be set beside the paper: {error!r}", []))
    return found


def _protocols(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Beside]:
    from fusionerlib.evaluation.evaluator import PUBLISHED
    from studies.published import beside

    data, fusion = part(run, "data"), part(run, "fusion")
    own, fold = data.get("dataset", ""), data.get("fold", -1)
    label = f"{fusion['kind']} {fusion['preset']}" if fusion else "this run"
    tests = {PUBLISHED[own]: "novel_classes"} if own in PUBLISHED else {}
    tests |= {"coco-20i->pascal-5i": "pascal_novel_classes"} if own == "coco" else {}
    asked = [(dataset, part(metrics, row)) for dataset, row in tests.items() if fold in FOLDS]
    measured = [(dataset, row) for dataset, row in asked if "miou" in row]
    found = []
    # Without a training of its own a run has no row here; a study of pairs has its own table.
    for dataset, row in measured or ([(PUBLISHED.get(own, "pascal-5i"), {})] if own else []):
        title = dataset.replace("pascal", "PASCAL").replace("coco", "COCO")
        ours = {fold: row["miou"]} if row else {}
        table = beside(ours, dataset=dataset, label=label).to_dict("records")
        lines = [{**line, "source": _quoted(line["source"])} for line in table]
        systems = [{k: v for k, v in line.items() if k not in ("text", "fusion")} for line in lines if not line["text"]]
        found.append(Beside(f"{title}, mIoU in percent", _measured(own, fold, dataset, row), systems))
        pairs = [line for line in lines if line["text"] or line["model"].endswith(OURS)]
        if row and len(pairs) > 1:
            found.append(Beside(f"{title}, the paper's table of encoder pairs", "", pairs, folded=True))
    return found


def _measured(own: str, fold: int, dataset: str, row: Mapping[str, Any]) -> str:
    if not row:
        return f"This run measured nothing of this protocol (its data: {own}), so our row is a hole."
    how = ", ".join(f"{key} {row[key]}" for key in ("episodes", "inference", "threshold") if key in row)
    asked = f"{row['scenes']:,} pairs of image and class" if "scenes" in row else "its pairs"
    listed = f"; the published list of this fold has {PAIRS[dataset][fold]}" if dataset in PAIRS else ""
    return f"Ours: fold {fold} alone, {asked}{f' ({how})' if how else ''}{listed}. A mean takes all four folds."


def _ablations(record: Mapping[str, Any], run: Mapping[str, Any]) -> list[Beside]:
    rows = record.get("rows")
    if not rows:
        return []
    from fusionerlib.config import RunConfig, checked
    from workbook.report.comparison_tables import ablation_tables, pair_lines

    config = checked(RunConfig, dict(run))
    note = "Every setting trained anew and measured on the same mosaics; ± is the standard deviation over seeds."
    found = []
    for name, lines in ablation_tables(rows, pair=config.pair).items():
        named = [{name: line["setting"], **{k: v for k, v in line.items() if k != "setting"}} for line in lines]
        found.append(Beside(f"Ablation: {name}", note, named, covers="ablations"))
        note = ""
    if {"pair", "where they meet"} & {row["ablation"] for row in rows}:
        lines = pair_lines(rows, run=config)
        found.append(Beside("Pairs of encoders, early and late fusion", "", lines, folded=True))
    return found


def _methods(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[Beside]:
    results = part(record, "results")
    mosaics = part(results, "mosaic4")
    if not mosaics:
        return []
    from workbook.report.comparison_tables import lines_by_test, method_lines

    own = {**mosaics, **part(results, "mosaic4_kinds")}
    parameters = part(metrics, "training").get("parameters", 0)
    others = {name: (count, figures) for name, (count, figures) in part(record, "methods").items()}
    compared = {f"this run {OURS}": (parameters, own), **others}
    # The hardest split is the last: names that training had not.
    main = list(mosaics)[-1]
    note = (
        "Mosaics of this project's own definition beside PASCAL-5i of the published systems: two protocols, so no row "
        "of one can be compared with a row of the other. No figure on Mosaic-4 was published."
    )
    lines = method_lines(compared, main=main)
    if not parameters:
        lines[0]["parameters"] = HOLE
    found = [Beside("Methods on the same mosaics", note, lines, covers="methods")]
    if len(own) > 1:
        tests = lines_by_test(compared)
        found.append(Beside("Where mosaics get harder: mIoU in percent", "", tests, folded=True))
    return found


def _pairs(record: Mapping[str, Any]) -> list[Beside]:
    rows = record.get("rows")
    if not rows:
        return []
    from studies.encoder_pairs.runs import published_gaps, summary

    fusions = ("early", "late", "early - late")
    means = {(line["text"], line["fusion"]): line["mean"] for line in summary(rows, figure="single")}
    texts = dict.fromkeys(text for text, _ in means)
    ours = [
        {"pair": f"{text} {OURS}", **{each: _cell(means.get((text, each), math.nan)) for each in fusions}}
        for text in texts
    ]
    printed = [
        {
            "pair": line["pair"],
            **{each: _cell(line[each]) for each in fusions},
            "source": _quoted("Fusioner, BMVC 2022"),
        }
        for line in published_gaps()
    ]
    note = "Mean mIoU in percent, one name asked; ours over the folds that were run, the paper's over all four."
    lines = [{**line, "source": "this run"} for line in ours] + printed
    return [Beside("Pairs of encoders, early and late fusion", note, lines)]


def _quoted(source: str) -> str:
    return source if source == "this run" or source.startswith("quoted") else f"quoted from {source}"


def _cell(percent: float) -> str:
    return HOLE if math.isnan(percent) else f"{percent:.1f}"
