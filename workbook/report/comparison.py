"""A run's figures in one table with the published ones.

Figures are mIoU or shares, in percent. Published rows are quoted, never measured here, and name their source; a figure
that was not published, or not measured, is a dash (``HOLE``). The paper's ablation tables and its figures on Mosaic-4
were not published anywhere that we could find; its table of encoder pairs with early and late fusion was.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusionerlib.config import PairConfig, RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import metric_label
from studies.published import FOLDS, HOLE, rows
from workbook.report.records import Values, notebook_records, part, run_settings

OURS = "(ours)"
"""The end of the name of a row that this run measured."""

PUBLISHED = "published: PASCAL-5i mIoU"
"""The column of published figures in tables of ablations and methods."""

PAIRS = {"pascal-5i": (346, 451, 725, 346)}
"""Validation pairs in the published lists, fold by fold; a run that is asked fewer had another test than the paper."""

PAPER_NAMES = {"clip-vit-b": "CLIP-B", "clip-vit-l": "CLIP-L", "dino-vitb": "DINO-B", "mocov3-vitb": "MoCo-B"}
PAPER_TEXTS = {**PAPER_NAMES, "bert-base": "BERT-B", "bert-large": "BERT-L"}
"""The paper's names of encoders by the start of ours; it does not say which patch size its ViT-B has."""

METHOD_FIGURES = ("assignment", "miou", "miou_permuted")
"""The figures of each method, on the main mosaics."""

Line = dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """One table. lines: rows of column to text. folded: it opens by a click. covers: the group of metrics it shows."""

    title: str
    note: str
    lines: Sequence[Line]
    folded: bool = False
    covers: str = ""

    @property
    def columns(self) -> list[str]:
        """The names of the columns, as people write them."""
        return [metric_label(column) for column in self.lines[0]]

    @property
    def cells(self) -> list[list[str]]:
        """The rows without the names of their columns."""
        return [list(line.values()) for line in self.lines]


def compared_with_published(folder: Path, metrics: Values) -> list[Comparison]:
    """The tables that the run in ``folder`` has figures for, its protocol's first.

    A record that can't be read, such as another version's, gives a table without lines, whose note says why.
    """
    records, run = notebook_records(folder), run_settings(folder)
    makers: list[tuple[str, Callable[[], list[Comparison]]]] = [
        ("The paper's protocols", lambda: _protocols(run, metrics)),
        ("Ablations", lambda: _ablations(records.get("04_ablations", {}), run)),
        ("Methods on the same mosaics", lambda: _methods(records.get("05_mosaic4_robustness", {}), metrics)),
        ("Encoder pairs", lambda: _pairs(records.get("07_encoder_pairs", {}))),
    ]
    found: list[Comparison] = []
    for title, make in makers:
        try:
            found += make()
        except (FusionerError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            found.append(Comparison(title, f"This record can't be compared with published results: {error!r}", []))
    return found


def ablation_tables(found: Sequence[Values], *, pair: PairConfig) -> dict[str, list[Line]]:
    """For each ablation one line a setting: parameters, our figures in percent, and the published figure or a dash.

    found: rows of ``studies.ablations.study.ablate``. A figure is the mean over seeds, with ± their standard deviation
    where there are several. pair: the run's encoders, which decide the published figures of early and late fusion.
    """
    tables: dict[str, list[Line]] = {}
    for ablation, setting in dict.fromkeys((row["ablation"], row["setting"]) for row in found):
        own = [row for row in found if (row["ablation"], row["setting"]) == (ablation, setting)]
        line = {"setting": setting, "parameters": f"{own[0]['parameters']:,}"}
        for metric in dict.fromkeys(row["metric"] for row in own):
            line[metric_label(metric)] = spread([row["value"] for row in own if row["metric"] == metric])
        tables.setdefault(ablation, []).append({**line, PUBLISHED: _published_figure(ablation, setting, pair)})
    return tables


def pair_lines(found: Sequence[Values], *, run: RunConfig) -> list[Line]:
    """The paper's table of encoder pairs with early and late fusion, in percent, below the pairs of ours.

    found: rows of ``studies.ablations.study.ablate``, of which "pair" and "where they meet" are read; ours is the last
    of their metrics, the mIoU of the hardest split. run: the run that was varied, whose fusion the ablation "pair" has.
    """
    metric = found[-1]["metric"]
    kind = {"fusioner": "early", "late": "late"}.get(run.fusion.kind, "")
    ours: dict[tuple[str, str], list[float]] = {}
    for row in found:
        if row["metric"] == metric and row["ablation"] == "pair" and kind:
            ours.setdefault((row["setting"], kind), []).append(row["value"])
        elif row["metric"] == metric and row["ablation"] == "where they meet":
            ours.setdefault((f"{run.pair.visual} / {run.pair.text}", row["setting"]), []).append(row["value"])
    printed = {(f"{row.visual} / {row.text}", row.fusion): percent(row.mean) for row in rows("pascal-5i") if row.text}
    papers = {pair: _paper_pair(pair) for pair, _ in ours}
    others = [pair for pair, fusion in printed if fusion == "early" and pair not in papers.values()]
    return [
        {
            "pair": pair,
            **{
                f"ours: {metric_label(metric)}, {each}": spread(ours.get((pair, each), [math.nan]))
                for each in ("early", "late")
            },
            **{f"{PUBLISHED}, {each}": printed.get((name, each), HOLE) for each in ("early", "late")},
        }
        for pair, name in [*papers.items(), *((pair, pair) for pair in others)]
    ]


def method_lines(found: Mapping[str, tuple[int, Mapping[str, Mapping[str, float]]]], *, main: str) -> list[Line]:
    """One line for each method measured here, then one for each published system, in percent.

    found: by name, trainable parameters and figures (``studies.methods.study.compare``). main: the split that is shown.
    Published systems have no figures on mosaics, and ours none on PASCAL-5i: both are dashes.
    """
    lines = []
    for name, (parameters, figures) in found.items():
        own = {f"{metric_label(key)}, {main}": percent(100 * figures[main][key]) for key in METHOD_FIGURES}
        lines.append({"method": name, "parameters": f"{parameters:,}", **own, PUBLISHED: HOLE, "source": "this run"})
    empty = dict.fromkeys(lines[0], HOLE) if lines else {}
    systems = [row for row in rows("pascal-5i") if not row.text]
    return lines + [
        {
            **empty,
            "method": f"{row.model} {row.visual}",
            PUBLISHED: percent(row.mean),
            "source": _quoted(row.source),
        }
        for row in systems
    ]


def lines_by_test(found: Mapping[str, tuple[int, Mapping[str, Mapping[str, float]]]]) -> list[Line]:
    """One line for each test, with the mIoU of each method in percent: how much each loses on harder mosaics."""
    tests = dict.fromkeys(test for _, figures in found.values() for test in figures)
    return [
        {
            "mIoU": test,
            **{name: percent(100 * own[test]["miou"]) if test in own else HOLE for name, (_, own) in found.items()},
        }
        for test in tests
    ]


def spread(values: Sequence[float]) -> str:
    """The mean of figures in 0-1 as percent, with ± their standard deviation where there are several."""
    mean = percent(100 * statistics.mean(values))
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def percent(value: float) -> str:
    """A figure in percent with one decimal, or a dash for NaN."""
    return HOLE if math.isnan(value) else f"{value:.1f}"


def _protocols(run: Values, metrics: Values) -> list[Comparison]:
    from fusionerlib.datasets.sets import PUBLISHED as TABLES
    from studies.published import beside

    data, fusion = part(run, "data"), part(run, "fusion")
    own, fold = data.get("dataset", ""), data.get("fold", -1)
    name = f"{fusion['kind']} {fusion['preset']}" if fusion else "this run"
    tests = {TABLES[own]: "novel_classes"} if own in TABLES else {}
    tests |= {"coco-20i->pascal-5i": "pascal_novel_classes"} if own == "coco" else {}
    asked = [(dataset, part(metrics, row)) for dataset, row in tests.items() if fold in FOLDS]
    measured = [(dataset, row) for dataset, row in asked if "miou" in row]
    found = []
    # A run that trained nothing has no row here; the study of encoder pairs has a table of its own.
    for dataset, row in measured or ([(TABLES.get(own, "pascal-5i"), {})] if own else []):
        title = dataset.replace("pascal", "PASCAL").replace("coco", "COCO")
        ours = {fold: row["miou"]} if row else {}
        table = beside(ours, dataset=dataset, label=name).to_dict("records")
        lines = [{**line, "source": _quoted(line["source"])} for line in table]
        systems = [{k: v for k, v in line.items() if k not in ("text", "fusion")} for line in lines if not line["text"]]
        note = _measured(own, fold, dataset, row)
        found.append(Comparison(f"{title}, mIoU in percent", note, systems, folded=not row))
        pairs = [line for line in lines if line["text"] or line["model"].endswith(OURS)]
        if row and len(pairs) > 1:
            found.append(Comparison(f"{title}, the paper's table of encoder pairs", "", pairs, folded=True))
    return found


def _measured(own: str, fold: int, dataset: str, row: Values) -> str:
    if not row:
        return f"This run (data set {own}) was not tested by this protocol, so its row is empty."
    how = ", ".join(f"{key} {row[key]}" for key in ("episodes", "inference", "threshold") if key in row)
    asked = f"{row['scenes']:,} pairs of image and class" if "scenes" in row else "its pairs"
    listed = f"; the published list of this fold has {PAIRS[dataset][fold]}" if dataset in PAIRS else ""
    return f"Ours: fold {fold} only, {asked}{f' ({how})' if how else ''}{listed}. The mean needs all four folds."


def _ablations(record: Values, run: Values) -> list[Comparison]:
    found = record.get("rows")
    if not found:
        return []
    config = checked(RunConfig, dict(run))
    seeds = len({row["seed"] for row in found})
    spread = (
        f"± is the standard deviation over {seeds} seeds"
        if seeds > 1
        else "with one seed there is no spread, and differences of a few points may be chance"
    )
    note = f"Each setting was trained anew and measured on the same mosaics; {spread}."
    made = []
    for name, lines in ablation_tables(found, pair=config.pair).items():
        named = [{name: line["setting"], **{k: v for k, v in line.items() if k != "setting"}} for line in lines]
        made.append(Comparison(f"Ablation: {name}", note, named, covers="ablations"))
        note = ""
    if {"pair", "where they meet"} & {row["ablation"] for row in found}:
        lines = pair_lines(found, run=config)
        made.append(Comparison("Encoder pairs, early and late fusion", "", lines, folded=True))
    return made


def _methods(record: Values, metrics: Values) -> list[Comparison]:
    results = part(record, "results")
    mosaics = part(results, "mosaic4")
    if not mosaics:
        return []
    own = {**mosaics, **part(results, "mosaic4_kinds")}
    parameters = part(metrics, "training").get("parameters", 0)
    others = {name: (count, figures) for name, (count, figures) in part(record, "methods").items()}
    compared = {f"this run {OURS}": (parameters, own), **others}
    note = (
        "Ours are measured on mosaics, which this project defines; the published systems on PASCAL-5i. The two "
        "protocols can't be compared row by row. No figure on Mosaic-4 was published."
    )
    # The hardest split is the last: names that training did not have.
    lines = method_lines(compared, main=list(mosaics)[-1])
    if not parameters:
        lines[0]["parameters"] = HOLE
    # With no other method of ours the published rows are all that stands beside this run.
    made = [Comparison("Methods on the same mosaics", note, lines, folded=not others, covers="methods")]
    if len(own) > 1:
        made.append(Comparison("mIoU in percent on harder mosaics", "", lines_by_test(compared), folded=True))
    return made


def _pairs(record: Values) -> list[Comparison]:
    found = record.get("rows")
    if not found:
        return []
    from studies.encoder_pairs.tables import published_gaps, summary

    fusions = ("early", "late", "early - late")
    means = {(line["text"], line["fusion"]): line["mean"] for line in summary(found, figure="single")}
    texts = dict.fromkeys(text for text, _ in means)
    ours = [
        {
            "pair": f"{text} {OURS}",
            **{each: percent(means.get((text, each), math.nan)) for each in fusions},
            "source": "this run",
        }
        for text in texts
    ]
    printed = [
        {
            "pair": line["pair"],
            **{each: percent(line[each]) for each in fusions},
            "source": _quoted("Fusioner, BMVC 2022"),
        }
        for line in published_gaps()
    ]
    note = (
        "Mean mIoU in percent, one name asked at a time: ours over the folds that were run, the paper's over all four."
    )
    return [Comparison("Encoder pairs, early and late fusion", note, ours + printed)]


def _quoted(source: str) -> str:
    return source if source == "this run" or source.startswith("quoted") else f"quoted from {source}"


def _published_figure(ablation: str, setting: str, pair: PairConfig) -> str:
    """What the paper printed for this pair and fusion: in the ablations "pair" (early fusion) and "where they meet"."""
    if ablation not in ("pair", "where they meet"):
        return HOLE
    fusion = "early" if ablation == "pair" else setting
    name = _paper_pair(setting if ablation == "pair" else f"{pair.visual} / {pair.text}")
    own = [row for row in rows("pascal-5i") if (f"{row.visual} / {row.text}", row.fusion) == (name, fusion)]
    return f"{percent(own[0].mean)} ({name})" if own else HOLE


def _paper_pair(pair: str) -> str:
    """The paper's name of ``pair``, with "" for an encoder that it does not have."""
    visual, _, text = pair.partition(" / ")
    sides = ((visual, PAPER_NAMES), (text, PAPER_TEXTS))
    return " / ".join(
        next((paper for start, paper in names.items() if name.startswith(start)), "") for name, names in sides
    )
