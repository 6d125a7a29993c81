"""The paper's grid (Table 1): pairs of encoders x early and late fusion x folds of PASCAL-5i, one training each.

The trainings of a grid: one of them with its measurement, and the call of Snakemake that makes all that miss.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from socket import gethostname
from typing import Any, Literal

import torch
from pydantic import Field

from fusionerlib import checkpoints
from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import single_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import claim
from fusionerlib.files import exclusive, plain_name, write_text
from fusionerlib.records import write_run_record
from fusionerlib.runs import trained
from fusionerlib.training.batch_sources import training_batch_source
from studies.encoder_pairs.study import FUSIONS
from studies.tables import markdown_table


class Grid(Frozen):
    """Which trainings. ``pairs``: visual and text encoders by their names in `fusioner encoders`.

    run: leaves of the config that all trainings share. epochs, warmup_epochs: passes over a fold's published training
    pairs, where ``run`` has no ``steps``.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    fusions: tuple[Literal["early", "late"], ...] = ("early", "late")
    folds: tuple[int, ...] = (0, 1, 2, 3)
    epochs: int = Field(default=510, ge=1)
    warmup_epochs: int = Field(default=10, ge=0)
    run: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def load(cls, name: str, settings: Mapping[str, Any] | None = None) -> "Grid":
        """The packaged grid ``paper``, or one's own by the path of its JSON file, with ``settings``: fields of the grid
        (``folds``, ...), or leaves of its runs' config.

        Raises FusionerError where there is none, and for a setting that neither has.
        """
        packaged = Path(str(resources.files("studies.paper_grid") / f"{name}.json"))
        file = Path(name) if name.endswith(".json") else packaged
        try:
            values = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise FusionerError(
                f"no grid {name!r} ({error}): give paper, or the path of a grid's .json file"
            ) from error
        for key, value in (settings or {}).items():
            if key in cls.model_fields:
                values[key] = value
            else:
                values["run"] = {**values.get("run", {}), key: value}
        grid = checked(cls, values)
        RunConfig.flat(**next(iter(grid.jobs().values())))
        return grid

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The leaves of every training's config, by a name that is unique among files."""
        lengths = {fold: self._length(fold) for fold in self.folds}
        return {
            _stem(visual, text, fusion, fold): {
                **lengths[fold],
                **self.run,
                "visual": visual,
                "text": text,
                "kind": FUSIONS[fusion],
                "fold": fold,
            }
            for (visual, text), fusion, fold in product(self.pairs, self.fusions, self.folds)
        }

    def missing(self) -> list[str]:
        """The encoders whose weights are neither given by ``run`` nor on this machine, sorted.

        Raises FusionerError for a name that no encoder has.
        """
        from fusionerlib.encoders.registry import get_spec
        from fusionerlib.encoders.weights import present

        rows = [get_spec("visual", visual) for visual, _ in self.pairs if not self.run.get("visual_weights")]
        rows += [get_spec("text", text) for _, text in self.pairs if not self.run.get("text_weights")]
        return sorted({row.name for row in rows if not present(row)})

    def _length(self, fold: int) -> dict[str, int]:
        """Steps that make the epochs, and so few of them with checkpoints and validations that they cost nothing."""
        if "steps" in self.run:
            return {"validate_every": self.run["steps"]}
        from fusionerlib.datasets.pascal import training_pair_count

        batch = RunConfig.flat(**self.run).training.batch
        an_epoch = training_pair_count(fold) // batch
        steps = self.epochs * an_epoch
        return {"steps": steps, "warmup": self.warmup_epochs * an_epoch, "validate_every": steps}


def rows_of(grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """One row for every pair and fusion: visual, text, fusion, the mIoU (0-1) of its folds that have a record in
    ``folder`` (``fold 0``, ...; None for the others), and their mean where all four have one."""
    rows = []
    for (visual, text), fusion in product(grid.pairs, grid.fusions):
        folds = {fold: _miou(record_of(folder, _stem(visual, text, fusion, fold))) for fold in grid.folds}
        known = [level for level in folds.values() if level is not None]
        mean = sum(known) / len(known) if len(known) == 4 else None
        row = {"visual": visual, "text": text, "fusion": fusion}
        rows.append(row | {f"fold {fold}": level for fold, level in folds.items()} | {"mean": mean})
    return rows


def record_of(folder: Path, job: str) -> Path:
    """The file that a training of the grid in ``folder`` leaves."""
    return folder / "records" / f"{job}.json"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of ``rows_of``, mIoU in percent, "-" for what is not there."""
    return markdown_table(rows, number=lambda level: f"{100 * level:.1f}").rstrip("\n")


def _stem(visual: str, text: str, fusion: str, fold: int) -> str:
    return f"{plain_name(visual)}.{plain_name(text)}.{fusion}.fold{fold}"


def _miou(record: Path) -> float | None:
    return json.loads(record.read_text(encoding="utf-8"))["measured"]["miou"] if record.is_file() else None


TEST = "novel"
"""The test of a fold's held-out classes: every published pair, one name asked at a time."""


def run_job(job: str, leaves: dict[str, Any], folder: Path, *, device: str = "") -> Path:
    """Trains and measures one training of the grid in ``folder``; returns its record. A stopped one goes on.

    Raises FusionerError where weights or data are missing, before anything is trained.
    """
    run = RunConfig.flat(**leaves)
    with own_device(folder, device) as place:
        context = RunContext(run, device=place)
        # Missing weights are told before an image is opened.
        text_cache, _ = context.text_cache, context.visual
        directory = folder / "training" / job
        made, history = trained(context, training_batch_source(context), directory=directory)
        pairs = context.sets.test_pairs[TEST]
        test = context.features(context.sets.tests[TEST], "test features")
        counts = evaluate(made.model, test, text_cache, single_queries(pairs)).counts.only({name for _, name in pairs})
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
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    threads = threads or max(1, len(os.sched_getaffinity(0)) // jobs)
    graph = {"jobs": grid.jobs(), "folder": str(folder), "base": str(Path.cwd()), "device": device, "threads": threads}
    with exclusive(folder / ".grid.lock", f"a grid in {folder}") as lock:
        config = folder / ("dry_run.json" if dry_run else "grid.json")
        write_text(config, json.dumps(graph, indent=1))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("grid.smk"))]
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
