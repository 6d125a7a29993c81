"""Scores as one record, and the record as JSON, a table in the terminal, an HTML page, and a Parquet or CSV file."""

import csv
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fusionerlib.errors import FusionerError, writing
from fusionerlib.evaluation.scores import DRAWS, FIGURES, LEVEL, Comparison, Interval, Scores, better
from fusionerlib.files import readable, write_text
from fusionerlib.records import environment

SMALLER_WINS = ("absent_prompt_miou", "absent_area")
"""The figures of which less is better."""
RECORD, PAGE, COUNTS = "scores.json", "scores.html", "scores"
"""The files of ``write``; ``COUNTS`` gets the suffix ``.parquet`` or ``.csv``."""
COLUMNS = ("all_classes", "boundary", "single_prompt", "absent_prompt", "absent_area")
"""The counts of ``Scores`` that the Parquet or CSV file has, each as its two columns of pixels."""
FEW_IMAGES = 10
"""Below this many images a bootstrap has too few different resamples for its intervals to be trusted."""
SIGNS = {"other": "+", "first": "-", "": ""}
"""Marks of a difference whose interval excludes 0: ``+`` where the other one is better than the first."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def record(models: Mapping[str, Scores], *, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, as JSON's types with None for what is undefined; all shares are 0-1.

    models: the scores by checkpoint, on the same images and names; each after the first is compared with the first.
    about: the data and the settings, such as its folder and the threshold.
    Raises FusionerError where images or names differ.
    """
    labels = _labels(list(models))
    (first, base), *others = zip(labels, models.values(), strict=True)
    made = {
        "about": dict(about),
        "images": len(base.keys),
        "names": list(base.names),
        "level": LEVEL,
        "resamples": DRAWS,
        "models": [
            {"checkpoint": name, "label": label, **_model(scores)}
            for (name, scores), label in zip(models.items(), labels, strict=True)
        ],
        "comparisons": [_comparison(first, name, Comparison(base, scores)) for name, scores in others],
        "environment": environment(),
    }
    return _strict(made)


def json_text(found: Mapping[str, Any]) -> str:
    """A record as strict JSON."""
    return json.dumps(found, indent=1, allow_nan=False)


def terminal_text(found: Mapping[str, Any], *, width: int = 120) -> str:
    """A record as tables of plain text: the figures, then one line a class, then where a comparison differs most."""
    from rich.console import Console
    from rich.table import Table

    models, comparisons = found["models"], found["comparisons"]
    console = Console(width=width, color_system=None, highlight=False, markup=False)

    def table(*columns: str) -> Table:
        drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        for place, column in enumerate(columns):
            drawn.add_column(column, justify="right" if place else "left", overflow="fold")
        return drawn

    figures = table("%", *(model["label"] for model in models), *(difference_label(one) for one in comparisons))
    for key, label in FIGURES.items():
        cells = [interval_text(model["figures"][key]) for model in models]
        figures.add_row(label, *cells, *(difference_text(one["figures"][key]) for one in comparisons))
    kinds = ("IoU", "boundary IoU")
    classes = table("name", "images", *(f"{model['label']}: {kind}" for model in models for kind in kinds))
    for rows in zip(*(model["classes"] for model in models), strict=True):
        cells = [cell for row in rows for cell in (interval_text(row, "iou"), percent(row["boundary_iou"]))]
        new = " *" if rows[0]["seen"] is False else ""
        classes.add_row(rows[0]["name"] + new, str(rows[0]["images"]), *cells)
    with console.capture() as captured:
        for model in models:
            console.print(f"{model['label']}: {trained_text(model)}")
        console.print(f"{found['images']} images, {found['level']:.0%} bootstrap intervals over images")
        if told := caution(found):
            console.print(told)
        console.print()
        console.print(figures, classes, sep="\n\n")
        if any(row["seen"] is False for row in models[0]["classes"]):
            console.print(f"* no name of the training of {models[0]['label']}")
        for one in comparisons:
            console.print(f"\n{difference_label(one)}: {verdict(one)}")
            pictures = table("largest differences", one["first"], one["other"], "difference")
            for row in one["images"]:
                cells = [percent(row["first"]), percent(row["other"]), f"{100 * row['difference']:+.1f}"]
                pictures.add_row(row["key"], *cells)
            console.print(pictures)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def page_text(found: Mapping[str, Any]) -> str:
    """A record as one HTML page that asks the network for nothing. Raises FusionerError without jinja2."""
    if find_spec("jinja2") is None:
        raise FusionerError(
            "the HTML page needs jinja2: `pip install 'fusioner[workbook]'`, or leave out -o and use --json"
        )
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    helpers = (caution, interval_text, difference_text, difference_label, percent, verdict, trained_text)
    templates.globals.update({helper.__name__: helper for helper in helpers})
    return templates.get_template(PAGE).render(found=found, policy=_POLICY, labels=FIGURES, shares=_shares) + "\n"


def write(folder: Path, models: Mapping[str, Scores], found: Mapping[str, Any]) -> list[Path]:
    """Write the record, the page and the counts of every image and name into ``folder``; returns the files.

    The counts are Parquet with pyarrow, CSV without. A row is left out where the image neither shows the name nor was
    predicted or asked as it.
    """
    write_text(folder / RECORD, json_text(found))
    write_text(folder / PAGE, page_text(found))
    columns = _counts(models)
    if find_spec("pyarrow") is None:
        counts = folder / f"{COUNTS}.csv"
        with writing(counts), counts.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    else:
        import pyarrow as pa
        from pyarrow import parquet

        counts = folder / f"{COUNTS}.parquet"
        with writing(counts), counts.open("wb") as stream:
            parquet.write_table(pa.table(columns), stream)
    return [folder / RECORD, folder / PAGE, counts]


def percent(share: float | None) -> str:
    """A share in percent with one digit; a dash where it is undefined."""
    return "-" if share is None else f"{100 * share:.1f}"


def caution(found: Mapping[str, Any]) -> str:
    """What is to be said of intervals over few images; "" for enough of them."""
    if found["images"] >= FEW_IMAGES:
        return ""
    return f"with fewer than {FEW_IMAGES} images, intervals and the differences that they call certain say little"


def interval_text(found: Mapping[str, Any], key: str = "value") -> str:
    """``43.2 (40.1 to 46.3)``: a value with its interval, in percent."""
    if found["low"] is None or found[key] is None:
        return percent(found[key])
    return f"{percent(found[key])} ({percent(found['low'])} to {percent(found['high'])})"


def difference_text(found: Mapping[str, Any]) -> str:
    """``+3.1 (1.0 to 5.2) +``: a difference in points with its interval, and its mark of ``SIGNS``."""
    if found["difference"] is None:
        return "undefined"
    spread = "" if found["low"] is None else f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return f"{100 * found['difference']:+.1f}{spread} {SIGNS[found['better']]}".rstrip()


def difference_label(comparison: Mapping[str, Any]) -> str:
    """The heading of a column of differences."""
    return f"{comparison['other']} minus {comparison['first']}"


def trained_text(model: Mapping[str, Any]) -> str:
    """How many of the names asked training had."""
    if model["names_of_training"] is None:
        return "the names of its training are unknown"
    return f"training saw {model['names_of_training']} of these {len(model['classes'])} names"


def verdict(comparison: Mapping[str, Any]) -> str:
    """Which one has the better mIoU, and how many names each wins."""
    won = [row["better"] for row in comparison["classes"]]
    winner = comparison["figures"]["miou"]["better"]
    start = f"{comparison[winner]} has the better mIoU" if winner else "the mIoU of the two cannot be told apart"
    counts = f"{comparison['other']} {won.count('other')}, {comparison['first']} {won.count('first')}"
    return f"{start}; names won: {counts}, undecided {won.count('')}"


def _labels(checkpoints: list[str]) -> list[str]:
    """Short names for tables: of a run's ``outputs/mine/checkpoint`` that is ``mine``, where no two become equal."""
    paths = [Path(checkpoint) for checkpoint in checkpoints]
    short = [path.parent.name if path.name == "checkpoint" else path.name for path in paths]
    return short if all(short) and len({*short}) == len(short) else checkpoints


def _model(scores: Scores) -> dict[str, Any]:
    known = bool(scores.trained_names)
    levels = scores.image_scores
    return {
        "names_of_training": len(scores.names) - len(scores.unseen) if known else None,
        "unseen": list(scores.unseen) if known else None,
        "figures": {key: found._asdict() for key, found in scores.figures.items()},
        "classes": scores.classes(),
        "confusion": {"labels": ["background", *scores.names], "pixels": scores.confusion.tolist()},
        "images": [{"key": key, "miou": float(level)} for key, level in zip(scores.keys, levels, strict=True)],
    }


def _comparison(first: str, other: str, found: Comparison) -> dict[str, Any]:
    figures = {key: _difference(key, one) for key, one in found.figures.items()}
    rows = {"classes": found.classes(), "images": found.images()}
    return {"first": first, "other": other, "figures": figures, **rows}


def _difference(key: str, found: Interval) -> dict[str, Any]:
    spread = {"difference": found.value, "low": found.low, "high": found.high}
    return spread | {"better": better(found, smaller_wins=key in SMALLER_WINS)}


def _strict(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shares(pixels: list[list[int]]) -> list[list[float]]:
    """The rows of a confusion matrix divided by their sums; rows without pixels are 0."""
    return [[pixel / sum(row) if any(row) else 0.0 for pixel in row] for row in pixels]


def _counts(models: Mapping[str, Scores]) -> dict[str, list[Any]]:
    """The columns of the Parquet or CSV file."""
    columns: dict[str, list[Any]] = {key: [] for key in ("checkpoint", "image", "name", "shown")}
    columns |= {f"{kind}_{part}": [] for kind in COLUMNS for part in ("intersection", "union")}
    for checkpoint, scores in models.items():
        kinds = {kind: getattr(scores, kind) for kind in COLUMNS}
        images, names = np.nonzero(scores.shown | (sum(one.unions for one in kinds.values()) > 0))
        columns["checkpoint"] += [readable(checkpoint)] * len(images)
        columns["image"] += [readable(scores.keys[place]) for place in images]
        columns["name"] += [scores.names[place] for place in names]
        columns["shown"] += scores.shown[images, names].tolist()
        for kind, one in kinds.items():
            columns[f"{kind}_intersection"] += one.intersections[images, names].tolist()
            columns[f"{kind}_union"] += one.unions[images, names].tolist()
    return columns
