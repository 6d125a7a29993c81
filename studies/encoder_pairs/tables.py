"""Results of the encoder pairs: means, spreads, and the gap between early and late fusion."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from studies.published import rows


def published_gaps() -> list[dict[str, Any]]:
    """Table 1 of the paper: mean mIoU on PASCAL-5i in percent, a row a pair: pair, early, late, ``early - late``."""
    means = {(f"{row.visual} / {row.text}", row.fusion): row.mean for row in rows("pascal-5i") if row.fusion}
    pairs = [pair for pair, fusion in means if fusion == "late"]
    both = [(pair, means[pair, "early"], means[pair, "late"]) for pair in pairs]
    return [
        {"pair": pair, "early": early, "late": late, "early - late": round(early - late, 1)}
        for pair, early, late in both
    ]


def summary(rows: Sequence[Mapping[str, Any]], *, figure: str) -> list[dict[str, Any]]:
    """A row for each text and fusion, in percent: each fold's mean over seeds, and ``mean``, the mean over folds.

    figure: "single" or "multi". spread: standard deviation over seeds of the mean over folds. lowest, highest: of all
    runs. The rows ``early - late`` are means of differences between runs of the same fold and seed.
    """
    values = {(row["text"], row["fusion"], row["fold"], row["seed"]): 100 * row[figure] for row in rows}
    table = []
    for text in dict.fromkeys(row["text"] for row in rows):
        early, late = (
            {key[2:]: value for key, value in values.items() if key[:2] == (text, fusion)}
            for fusion in ("early", "late")
        )
        gap = {key: early[key] - late[key] for key in early.keys() & late.keys()}
        for name, found in (("early", early), ("late", late), ("early - late", gap)):
            if found:
                table.append({"text": text, "fusion": name, **_mean_and_spread(found)})
    return table


def _mean_and_spread(found: Mapping[tuple[int, int], float]) -> dict[str, float]:
    """Statistics of values by (fold, seed); only seeds that have every fold count in mean and spread."""
    folds, seeds = (sorted({key[place] for key in found}) for place in (0, 1))
    by_fold = {f"fold {fold}": statistics.mean(v for key, v in found.items() if key[0] == fold) for fold in folds}
    whole = [seed for seed in seeds if all((fold, seed) in found for fold in folds)]
    means = [statistics.mean(found[fold, seed] for fold in folds) for seed in whole]
    return {
        **by_fold,
        "mean": statistics.mean(means) if means else math.nan,
        "spread": statistics.stdev(means) if len(means) > 1 else math.nan,
        "lowest": min(found.values()),
        "highest": max(found.values()),
    }
