"""The trainings of a transfer study: features once, then each trial trained, measured, and left as a record."""

import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import torch

from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.measuring import Measure
from fusionerlib.frozen.workspace import Workspace
from fusionerlib.progress import each
from fusionerlib.records import write_run_record
from fusionerlib.studies.records import finished, rows_of
from fusionerlib.training.feeds import training_feed
from fusionerlib.training.fitting import trained
from fusionerlib.transfer.bars import bars
from fusionerlib.transfer.study import CLASSES, TransferStudy, Trial

LEVELS = tuple(round(level / 100, 2) for level in range(30, 95, 5))
"""Thresholds that a record has the figures of."""


def compare(study: TransferStudy, *, quiet: bool = False) -> list[dict[str, Any]]:
    """One row a trial, after those that have no record yet were trained and measured (``run_trial``).

    A trial that fails does not stop the others. Raises FusionerError where data is missing, where a record in
    ``study.folder`` is of another study, and at the end naming the trials that failed.
    """
    study.require_data()
    waiting = [trial for trial in study.trials() if not finished(study, trial)]
    failed = {}
    threads = max(1, torch.get_num_threads() // study.jobs)
    # Fresh processes: a forked one would share the parent's threads and open shards.
    with ProcessPoolExecutor(study.jobs, mp_context=get_context("spawn")) as pool:
        tasks = {pool.submit(run_trial, study, trial, threads): trial for trial in waiting}
        for task in each(as_completed(tasks), "trainings", total=len(tasks), unit="run", quiet=quiet):
            if error := task.exception():
                failed[tasks[task].stem] = str(error)
    if failed:
        told = "; ".join(f"{stem}: {error}" for stem, error in failed.items())
        raise FusionerError(f"{len(failed)} of {len(waiting)} trainings failed ({told}): mend that and run again")
    return rows_of(study)


def run_trial(study: TransferStudy, trial: Trial, threads: int) -> None:
    """Train and measure one trial on ``threads`` threads, and leave its record.

    Measured are ``bars``, loss (of the last 50 steps), parameters, images (seen in training), core seconds (processor
    time of the training in this process, of what was left of it where an earlier start was stopped), threads.
    """
    torch.set_num_threads(threads)
    run = study.run_of(trial)
    folder = study.folder / "training" / trial.stem
    work = Workspace(run)
    feed = training_feed(work)
    started = time.process_time()
    made, history = trained(work, feed, directory=folder, quiet=True)
    seconds = time.process_time() - started
    measure = Measure(work, made, threshold=study.threshold)
    measured = {
        **bars(measure, classes=CLASSES, thresholds=LEVELS),
        "loss": statistics.mean(row["loss"] for row in history[-50:]),
        "parameters": made.model.trainable()["total"],
        "images": run.training.steps * run.training.batch,
        "core seconds": seconds,
        "threads": threads,
    }
    write_run_record(study.record(trial), run, measured=measured, trained_names=made.trained_names)
    shutil.rmtree(folder, ignore_errors=True)
