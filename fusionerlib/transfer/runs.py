"""The trainings of a transfer study: features once, then each trial trained, measured, and left as a record."""

import json
import shutil
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import torch
from tqdm import tqdm

from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.feeds import training_feed
from fusionerlib.files import write_text
from fusionerlib.measuring import Measure
from fusionerlib.pair_table import markdown
from fusionerlib.records import write_run_record
from fusionerlib.training import train
from fusionerlib.transfer.bars import bars
from fusionerlib.transfer.study import CLASSES, TransferStudy, Trial
from fusionerlib.workspace import Workspace

LEVELS = tuple(round(level / 100, 2) for level in range(30, 95, 5))
"""Thresholds that a record has the figures of."""


def compare(study: TransferStudy, *, quiet: bool = False) -> list[dict[str, Any]]:
    """One row a trial (``rows_of``), after those that have no record yet were trained and measured.

    A trial that fails does not stop the others. Raises FusionerError where data
    is missing, where a record in ``study.folder`` is of another study, and at the end naming the trials that failed.
    """
    study.require_data()
    waiting = [trial for trial in study.trials() if not finished(study, trial)]
    failed = {}
    threads = max(1, torch.get_num_threads() // study.jobs)
    # Fresh processes: a forked one would share the parent's threads and open shards.
    with ProcessPoolExecutor(study.jobs, mp_context=get_context("spawn")) as pool:
        tasks = {pool.submit(run_trial, study, trial, threads): trial for trial in waiting}
        bar = tqdm(as_completed(tasks), total=len(tasks), desc="trainings", unit="run", disable=quiet, mininterval=0)
        for task in bar:
            if error := task.exception():
                failed[tasks[task].stem] = str(error)
    if failed:
        told = "; ".join(f"{stem}: {error}" for stem, error in failed.items())
        raise FusionerError(f"{len(failed)} of {len(waiting)} trainings failed ({told}): mend that and run again")
    return rows_of(study)


def run_trial(study: TransferStudy, trial: Trial, threads: int) -> None:
    """Train and measure one trial on ``threads`` threads, and leave its record."""
    torch.set_num_threads(threads)
    run = study.run_of(trial)
    folder = study.folder / "training" / trial.stem
    work = Workspace(run)
    feed = training_feed(work)
    started = time.perf_counter()
    model, history = train(run=run, scenes=feed, words=work.words, directory=folder, quiet=True)
    seconds = time.perf_counter() - started
    names = tuple(sorted({name for _, name in feed.pairs()}))
    measure = Measure(work, Checkpoint(model=model, run=run, trained_names=names), threshold=study.threshold)
    measured = {
        **bars(measure, classes=CLASSES, thresholds=LEVELS),
        "loss": statistics.mean(row["loss"] for row in history[-50:]),
        "parameters": model.trainable()["total"],
        "images": run.training.steps * run.training.batch,
        "seconds": seconds,
        "threads": threads,
    }
    write_run_record(study.record(trial), run, measured=measured, trained_names=names)
    shutil.rmtree(folder, ignore_errors=True)


def finished(study: TransferStudy, trial: Trial) -> bool:
    """Whether the trial has a record; FusionerError where it has one of another config."""
    file = study.record(trial)
    if not file.is_file():
        return False
    old = _decisive(checked(RunConfig, json.loads(file.read_text(encoding="utf-8"))["config"]))
    new = _decisive(study.run_of(trial))
    if changed := [key for key in new if old[key] != new[key]]:
        key = changed[0]
        raise FusionerError(
            f"{file} is of another study ({key} was {old[key]!r}, is {new[key]!r}): "
            "give this study another folder, or delete that record"
        )
    return True


def rows_of(study: TransferStudy) -> list[dict[str, Any]]:
    """One row for every trial that has a record: setting, fold, seed, and what ``run_trial`` measured."""
    records = [(trial, study.record(trial)) for trial in study.trials() if study.record(trial).is_file()]
    return [{**vars(trial), **json.loads(file.read_text(encoding="utf-8"))["measured"]} for trial, file in records]


def _decisive(run: RunConfig) -> dict[str, Any]:
    """The leaves of a config that decide a trial's figures: where files lie does not."""
    leaves = {f"{section}.{leaf}": value for section, part in run for leaf, value in part}
    for place in ("data.root", "data.coco", "data.features", "training.workers"):
        del leaves[place]
    return leaves | {"pair.text": leaves["pair.text"].split(":")[0]}


def write_tables(study: TransferStudy, tables: Mapping[str, Any]) -> None:
    """pandas ``tables`` by title as one Markdown page, ``table.md`` in the study's folder; what is missing is "-"."""
    parts = []
    for title, table in tables.items():
        flat = table.reset_index().astype(object).where(table.reset_index().notna(), "-")
        parts.append(f"## {title}\n\n{markdown(flat.to_dict('records'))}")
    write_text(study.folder / "table.md", "\n".join(parts))
