"""Published results to set beside ours: every number as printed, and nothing where no number was printed."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from fusionerlib.errors import FusionerError

FOLDS = range(4)
HOLE = "\N{EN DASH}"
"""Shown for a number that was not published, or that we did not measure."""


@dataclass(frozen=True)
class Published:
    """One row of a published table: mIoU in percent of folds 0 to 3 and their mean, as printed; NaN if not printed.

    visual, text: the encoders as the table names them. fusion: "early" or "late", "" for other models. source: the
    paper; "quoted in" a later paper that repeats the numbers.
    """

    dataset: str
    model: str
    visual: str
    text: str
    fusion: str
    folds: tuple[float, float, float, float]
    mean: float
    source: str


@cache
def _all() -> tuple[Published, ...]:
    file = resources.files("studies") / "published.csv"
    found = []
    for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
        first, second, third, fourth, mean = (
            float(row[key] or "nan") for key in (*(f"fold{f}" for f in FOLDS), "mean")
        )
        texts = {key: row[key] for key in ("dataset", "model", "visual", "text", "fusion", "source")}
        found.append(Published(**texts, folds=(first, second, third, fourth), mean=mean))
    return tuple(found)


def rows(dataset: str) -> list[Published]:
    """The published rows of pascal-5i, coco-20i, or coco-20i->pascal-5i (trained on COCO-20i, tested on PASCAL-5i).

    In this order: the paper's table of encoder pairs (PASCAL-5i only), its comparison with other systems (SPNet,
    ZS3Net, LSeg, Fusioner), later work by the same protocol. Raises FusionerError for another data set.
    """
    if found := [row for row in _all() if row.dataset == dataset]:
        return found
    known = ", ".join(dict.fromkeys(row.dataset for row in _all()))
    raise FusionerError(f"no published rows for dataset {dataset!r}: expected one of {known}")


def beside(ours: Mapping[int, float], *, dataset: str, label: str) -> Any:
    """A pandas DataFrame of text: our row, marked "(ours)", above the published rows. Numbers are in percent.

    ours: mIoU (0-1) by fold (0 to 3) of the folds that were run. Our mean is left empty unless there are all four:
    a mean over fewer folds cannot be compared with a published one.
    Raises FusionerError for an unknown data set, a fold other than 0 to 3, and an mIoU outside 0-1.
    """
    for fold, value in ours.items():
        if fold not in FOLDS:
            raise FusionerError(f"fold {fold!r}: the published protocols have folds 0 to 3")
        if not (math.isnan(value) or 0 <= value <= 1):
            raise FusionerError(f"mIoU {value} of fold {fold}: expected 0-1 (percent is divided by 100)")
    folds = [100 * ours.get(fold, math.nan) for fold in FOLDS]
    # A missing fold (NaN) makes the mean NaN.
    lines = [_line(f"{label} (ours)", "", "", "", folds, sum(folds) / len(FOLDS), "this run")]
    lines += [_line(r.model, r.visual, r.text, r.fusion, r.folds, r.mean, r.source) for r in rows(dataset)]
    try:
        import pandas
    except ImportError as error:
        raise FusionerError(
            "a table of results needs pandas: run `pip install 'fusioner[workbook]'` in the clone"
        ) from error
    columns = ["model", "visual", "text", "fusion", *(f"fold {fold}" for fold in FOLDS), "mean", "source"]
    return pandas.DataFrame(lines, columns=columns)


def _line(
    model: str, visual: str, text: str, fusion: str, folds: Sequence[float], mean: float, source: str
) -> list[str]:
    return [model, visual, text, fusion, *(_cell(value) for value in (*folds, mean)), source]


def _cell(percent: float) -> str:
    return HOLE if math.isnan(percent) else f"{percent:.1f}"
