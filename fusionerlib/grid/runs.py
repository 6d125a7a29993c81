"""The trainings of a grid: one of them with its measurement, and the call of Snakemake that makes all that miss."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from socket import gethostname
from typing import Any

import torch

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import single_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.files import exclusive, write_text
from fusionerlib.frozen.shards import claim
from fusionerlib.frozen.workspace import Workspace
from fusionerlib.grid.jobs import Grid, markdown, record_of, rows_of
from fusionerlib.records import write_run_record
from fusionerlib.training.feeds import training_feed
from fusionerlib.training.fitting import trained
from fusionerlib.workbook.runs import find_checkout

TEST = "novel"
"""The test of a fold's held-out classes: every published pair, one name asked at a time."""


def run_job(job: str, leaves: dict[str, Any], folder: Path, *, device: str = "") -> Path:
    """Trains and measures one training of the grid in ``folder``; returns its record. A stopped one goes on.

    Raises FusionerError where weights or data are missing, before anything is trained.
    """
    run = RunConfig.flat(**leaves)
    with own_device(folder, device) as place:
        work = Workspace(run, device=place)
        # Missing weights are told before an image is opened.
        words, _ = work.words, work.visual
        directory = folder / "training" / job
        made, history = trained(work, training_feed(work), directory=directory)
        pairs = work.sets.test_pairs[TEST]
        test = work.features(work.sets.tests[TEST], "test features")
        counts = evaluate(made.model, test, words, single_queries(pairs)).counts.only({name for _, name in pairs})
    checkpoints.save(folder / "checkpoints" / job, model=made.model, run=run, trained_names=made.trained_names)
    measured = {
        "miou": counts.miou,
        "fb_iou": counts.fb_iou,
        "classes": {row["name"]: row["iou"] for row in counts.table()},
        "pairs": len(pairs),
        "loss": sum(row["loss"] for row in history[-50:]) / len(history[-50:]),
        "parameters": made.model.trainable()["total"],
    }
    write_run_record(record_of(folder, job), run, measured=measured)
    shutil.rmtree(directory, ignore_errors=True)
    return record_of(folder, job)


@contextmanager
def own_device(folder: Path, device: str = "") -> Iterator[str]:
    """``device``; for "" a GPU of this machine that no other training of ``folder`` is on, the first one where all are
    taken, the CPU where there is none."""
    held = None
    if not device:
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        for index in range(torch.cuda.device_count()):
            held = claim(folder / "devices" / f"{gethostname()}-{index}.lock", wait=False)
            if held is not None:
                device = f"cuda:{index}"
                break
    try:
        yield device
    finally:
        if held is not None:
            held.close()


def run_grid(
    grid: Grid,
    folder: Path,
    *,
    dry_run: bool = False,
    jobs: int = 1,
    threads: int = 0,
    executor: str = "",
    device: str = "",
    more: Sequence[str] = (),
) -> str:
    """Every training of ``grid`` without a record in ``folder``; returns the table of all as Markdown.

    jobs: trainings at once. threads: of each, 0 shares out this machine's. executor: a plugin of Snakemake's, "" for
    this machine. more: arguments for Snakemake. A training that fails does not stop the others.
    Raises FusionerError for a plugin that is not installed, and at the end telling why trainings failed.
    """
    if executor and find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None:
        raise FusionerError(
            f"no executor {executor!r}: `pip install snakemake-executor-plugin-{executor}`, or leave --executor out"
        )
    checkout, folder = find_checkout(), folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    threads = threads or max(1, len(os.sched_getaffinity(0)) // jobs)
    graph = {"jobs": grid.jobs(), "folder": str(folder), "base": str(Path.cwd()), "device": device, "threads": threads}
    with exclusive(folder / ".grid.lock", f"a grid in {folder}") as lock:
        config = folder / ("dry_run.json" if dry_run else "grid.json")
        write_text(config, json.dumps(graph, indent=1))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(checkout / "workflow" / "grid.smk")]
        command += ["--directory", str(folder), "--configfile", str(config), "--rerun-incomplete", "--keep-going"]
        command += ["--rerun-triggers", "mtime", "params", "--nolock", *(["--dry-run"] if dry_run else [])]
        command += ["--executor", executor, "--jobs", str(jobs)] if executor else ["--cores", str(jobs * threads)]
        command += ["--quiet", "host", "rules", *([] if dry_run else ["progress", "reason"])]
        code = subprocess.run([*command, *more], pass_fds=(lock.fileno(),), check=False).returncode
    if dry_run:
        config.unlink()
    table = markdown(rows_of(grid, folder))
    if not dry_run:
        write_text(folder / "table.md", table + "\n")
    if code:
        raise FusionerError(_told(grid, folder))
    return table


def _told(grid: Grid, folder: Path) -> str:
    """Why trainings have no record, each reason once."""
    missing = [job for job in grid.jobs() if not record_of(folder, job).is_file()]
    reasons = Counter(_reason(folder / "logs" / f"{job}.log") for job in missing)
    told = "\n".join(f"  {count} x {reason}" for reason, count in reasons.most_common())
    return (
        f"{len(missing)} of {len(grid.jobs())} trainings have no record:\n{told}\n"
        f"logs: {folder / 'logs'}; the others are in {folder / 'table.md'}. The same command goes on from here"
    )


def _reason(log: Path) -> str:
    """The last line of a failed training's log, without what went before it was told."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    written = [line.strip() for line in lines if line.strip()]
    return written[-1].removeprefix("fusioner: ") if written else "did not start; see the messages above"
