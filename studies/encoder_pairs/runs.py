"""The runs of a comparison of encoder pairs: features once, then training and measuring, each leaving its record.

What a comparison of encoder pairs comes to: means, spreads, and the gap between early and late fusion.
"""

import math
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from fusionerlib.config import RunConfig
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.sets import load_datasets
from fusionerlib.datasets.transforms import Subset
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import Query, single_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.store import FeatureStore, StoredScenes
from fusionerlib.features.text import TextEmbeddingCache, text_cache_of, visual_of
from fusionerlib.files import write_text
from fusionerlib.progress import each
from fusionerlib.records import write_run_record
from fusionerlib.training.batch_sources import names_of
from fusionerlib.training.loop import train
from studies.encoder_pairs.study import TEMPLATE, Study, Variant
from studies.published import rows
from studies.records import finished, rows_of


@dataclass(frozen=True)
class FoldData:
    """One fold's features, and what is asked: the measured classes' published pairs, and those classes at once."""

    train: StoredScenes
    test: StoredScenes
    pairs: list[tuple[int, str]]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The measured classes, sorted."""
        return names_of(self.pairs)

    @cached_property
    def together(self) -> list[Query]:
        """Every test photograph of a measured class, asked for all of them."""
        return [Query(scene, self.classes) for scene in dict.fromkeys(scene for scene, _ in self.pairs)]


def compare(study: Study, *, quiet: bool = False) -> list[dict[str, Any]]:
    """One row a run, after those that have no record yet were trained and measured.

    A row is text, fusion, fold, seed, single and multi (mIoU, 0-1), classes (either figure's IoU by name), loss (of the
    last 20 steps), parameters, seconds on ``threads`` threads.
    Raises FusionerError where data is missing, and where a record in ``study.folder`` is of another study.
    """
    study.require_data()
    write_text(study.template, TEMPLATE + "\n")
    waiting = [variant for variant in study.trials() if not finished(study, variant)]
    folds: dict[int, FoldData] = {}
    text_cache: dict[str, TextEmbeddingCache] = {}
    if waiting:
        run = study.run_of(waiting[0])
        store = FeatureStore(run.data.features, encoder=visual_of(run.pair), number_format=run.data.store)
    for variant in each(waiting, "runs", total=len(waiting), unit="run", quiet=quiet):
        run = study.run_of(variant)
        if variant.fold not in folds:
            folds[variant.fold] = fold_data(study, run, store)
        if variant.text not in text_cache:
            text_cache[variant.text] = text_cache_of(run.pair)
        _measure(study, variant, run, folds[variant.fold], text_cache[variant.text])
    return rows_of(study)


def fold_data(study: Study, run: RunConfig, store: FeatureStore) -> FoldData:
    """The features of the fold of ``run``, computed where ``store`` lacks them."""
    sets = load_datasets(run.data)
    listed = sets.test_pairs["novel"]
    test, kept = _thinned(sets.tests["novel"], study.photos)
    pairs = [(kept[scene], name) for scene, name in listed if scene in kept]
    counts = Counter(name for _, name in pairs)
    pairs = [(scene, name) for scene, name in pairs if counts[name] >= study.least]
    if not pairs:
        raise FusionerError(
            f"no class of fold {run.data.fold} has {study.least} pairs of the published list in {study.voc_root} "
            f"({dict(counts)}): leave the fold out, or lower least"
        )
    parts = (_thinned(sets.train, study.photos)[0], test)
    trained, tested = (store.add(part, description=f"fold {run.data.fold}") for part in parts)
    return FoldData(trained, tested, pairs)


def _measure(study: Study, variant: Variant, run: RunConfig, data: FoldData, text_cache: TextEmbeddingCache) -> None:
    """Train and measure one run, and leave its record."""
    started = time.perf_counter()
    folder = study.folder / "training" / variant.stem
    model, history = train(run=run, scenes=data.train, text_cache=text_cache, directory=folder, quiet=True)
    questions = {"single": single_queries(data.pairs), "multi": data.together}
    answers = {
        figure: evaluate(model, data.test, text_cache, queries, quiet=True).counts.only(data.classes)
        for figure, queries in questions.items()
    }
    measured = {
        **{figure: counts.miou for figure, counts in answers.items()},
        "classes": {figure: {row["name"]: row["iou"] for row in counts.table()} for figure, counts in answers.items()},
        "loss": statistics.mean(row["loss"] for row in history[-20:]),
        "parameters": model.trainable()["total"],
        "seconds": time.perf_counter() - started,
        "threads": torch.get_num_threads(),
    }
    photos = {"train": len(data.train), "test": len(data.test), "pairs": len(data.pairs)}
    write_run_record(study.record(variant), run, study=study.limits, measured=measured, photos=photos)
    shutil.rmtree(folder, ignore_errors=True)


def _thinned(scenes: Scenes, most: int) -> tuple[Scenes, dict[int, int]]:
    """At most ``most`` of ``scenes`` (0: all), evenly spaced, and where each kept one is now."""
    count = min(most, len(scenes)) if most else len(scenes)
    indices = [place * len(scenes) // count for place in range(count)]
    return Subset(scenes, indices), {index: place for place, index in enumerate(indices)}


def published_gaps() -> list[dict[str, Any]]:
    """Table 1 of the paper, mean mIoU on PASCAL-5i in percent, a row a pair: pair, early, late, ``early - late``."""
    means = {(f"{row.visual} / {row.text}", row.fusion): row.mean for row in rows("pascal-5i") if row.fusion}
    pairs = [pair for pair, fusion in means if fusion == "late"]
    both = [(pair, means[pair, "early"], means[pair, "late"]) for pair in pairs]
    return [
        {"pair": pair, "early": early, "late": late, "early - late": round(early - late, 1)}
        for pair, early, late in both
    ]


def summary(rows: Sequence[Mapping[str, Any]], *, figure: str) -> list[dict[str, Any]]:
    """A row for each text and fusion, in percent: the mean over seeds of each fold, and ``mean`` of the folds' means.

    figure: "single" or "multi". spread: the standard deviation over seeds of the mean over folds. lowest, highest: of
    all single runs. The rows ``early - late`` take the difference fold by fold and seed by seed first.
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
    """By (fold, seed); only seeds that have every fold enter mean and spread."""
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
