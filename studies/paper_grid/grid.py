"""The paper's grid (Table 1): pairs of encoders x early and late fusion x folds of PASCAL-5i, one training each."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module, resources
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from socket import gethostname
from typing import Any, Literal

import torch
from pydantic import Field

from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import Inference
from fusionerlib.features.context import RunContext
from fusionerlib.files import (
    claim,
    exclusive,
    inherited,
    plain_name,
    ready_cache,
    ready_folder,
    without_braces,
    write_text,
)
from fusionerlib.records import measured_in, usable_cores
from fusionerlib.runs import TrainedRun, train_and_evaluate
from fusionerlib.training.batch_sources import names_of
from studies.encoder_pairs.study import FUSIONS
from studies.photo_study import require_same_data
from studies.tables import markdown_table

INFERENCES: tuple[Inference, ...] = ("whole", "sliding")
"""How each training is measured: images resized to the input size, and windows at their own size (the authors' way)."""


class Grid(Frozen):
    """The trainings of a grid. pairs: visual and text encoder by name. run: leaves of the config of all trainings."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    fusions: tuple[Literal["early", "late"], ...] = ("early", "late")
    folds: tuple[int, ...] = (0, 1, 2, 3)
    run: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def load(cls, name: str, settings: Mapping[str, Any] | None = None) -> "Grid":
        """The grid ``paper``, or the one in the JSON file ``name``.

        settings: fields of the grid (``folds``, ...) or leaves of its runs' config, by name. Raises FusionerError if
        the file can't be read, and for an unknown setting.
        """
        packaged = Path(str(resources.files("studies.paper_grid") / f"{name}.json"))
        file = Path(name) if name.endswith(".json") else packaged
        try:
            values = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
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
        """The leaves of every training's config by the training's name, which is unique in the grid."""
        return {
            _stem(visual, text, fusion, fold): self.run
            | {"visual": visual, "text": text, "kind": FUSIONS[fusion], "fold": fold}
            for (visual, text), fusion, fold in product(self.pairs, self.fusions, self.folds)
        }

    def missing(self) -> list[str]:
        """The encoders whose weights are neither given in ``run`` nor on this machine, sorted.

        Raises FusionerError for an unknown encoder.
        """
        from fusionerlib.encoders.registry import get_spec
        from fusionerlib.encoders.weights import present

        rows = [get_spec("visual", visual) for visual, _ in self.pairs if not self.run.get("visual_weights")]
        rows += [get_spec("text", text) for _, text in self.pairs if not self.run.get("text_weights")]
        return sorted({row.name for row in rows if not present(row)})


def rows_of(grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """A row for every pair, fusion and inference: visual, text, fusion, inference, mIoU (0-1) by fold (``fold 0``, ...;
    None without a record in ``folder``), and their mean if there are four."""
    rows = []
    for (visual, text), fusion, inference in product(grid.pairs, grid.fusions, INFERENCES):
        records = {fold: record_of(folder, _stem(visual, text, fusion, fold)) for fold in grid.folds}
        folds = {fold: _miou(record, inference) for fold, record in records.items()}
        known = [level for level in folds.values() if level is not None]
        mean = sum(known) / len(known) if len(known) == 4 else None
        row = {"visual": visual, "text": text, "fusion": fusion, "inference": inference}
        rows.append(row | {f"fold {fold}": level for fold, level in folds.items()} | {"mean": mean})
    return rows


def record_of(folder: Path, job: str) -> Path:
    """The record of a training of the grid in ``folder``."""
    return folder / "records" / f"{job}.json"


def markdown(rows: list[dict[str, Any]]) -> str:
    """``rows_of`` as a Markdown table, mIoU in percent, "-" for None."""
    return markdown_table(rows, number=lambda level: f"{100 * level:.1f}").rstrip("\n")


def _stem(visual: str, text: str, fusion: str, fold: int) -> str:
    return f"{plain_name(visual)}.{plain_name(text)}.{fusion}.fold{fold}"


def _miou(record: Path, inference: str) -> float | None:
    if not record.is_file():
        return None
    measured = measured_in(record)
    if inference not in measured:
        raise FusionerError(f"{record} has no figures for {inference!r}: delete it and run the grid again")
    return float(measured[inference]["miou"])


def run_job(job: str, leaves: dict[str, Any], folder: Path, *, device: str = "") -> Path:
    """Train and evaluate one training of the grid in ``folder``; returns its record. An interrupted one goes on.

    Raises FusionerError if weights or data are missing, before anything is trained.
    """
    run, record = RunConfig.flat(**leaves), record_of(folder, job)
    with own_device(folder, device) as place:
        context = RunContext(run, device=place)
        # Load both encoders first: missing weights are reported before an image is read.
        _ = context.text_cache, context.visual
        train_and_evaluate(
            context,
            directory=folder / "training" / job,
            record=record,
            evaluate=evaluate_fold,
            checkpoint=folder / "checkpoints" / job,
        )
    return record


def evaluate_fold(trained: TrainedRun) -> dict[str, Any]:
    """The held-out classes of the run's fold by the paper's protocol: every published pair, one name at a time.

    Both on whole images and with sliding windows.
    """
    benchmark = trained.evaluator().benchmarks(all_at_once=False)["novel"]
    assert benchmark.pairs is not None
    measured: dict[str, Any] = {
        "pairs": len(benchmark.pairs),
        "loss": trained.mean_loss(50),
        "parameters": trained.parameters,
    }
    for inference in INFERENCES:
        found = replace(trained.evaluator(), inference=inference)(benchmark, description=f"test, {inference}")
        counts = found.counts.only(set(names_of(benchmark.pairs)))
        classes = {row["name"]: row["iou"] for row in counts.table()}
        measured[inference] = {"miou": counts.miou, "fb_iou": counts.fb_iou, "classes": classes}
    return {"measured": measured}


@contextmanager
def own_device(folder: Path, device: str = "") -> Iterator[str]:
    """``device``; for "" a GPU that no other training of the grid uses, the first GPU if all are used, else the CPU."""
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
    """Run every training of ``grid`` without a record in ``folder`` by Snakemake; returns the table in Markdown.

    jobs: trainings at a time. threads: of each training; 0 divides this machine's cores by ``jobs``. executor: an
    executor plugin of Snakemake, "" for this machine. more: further arguments of Snakemake. A training that fails does
    not stop the others.
    Raises FusionerError if the plugin is not installed, if a record is of other data than there is now, and at the end
    with the reasons of failed trainings.
    """
    if executor and find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None:
        raise FusionerError(
            f"no executor {executor!r}: `pip install snakemake-executor-plugin-{executor}`, or leave --executor out"
        )
    folder = folder.resolve()
    import_module("snakemake")  # before anything is made; the command line tells which extra brings it
    require_grid_data(grid, folder)
    ready_folder(without_braces(folder))
    ready_cache()  # Snakemake needs it
    threads = threads or max(1, usable_cores() // jobs)
    graph = {"jobs": grid.jobs(), "folder": str(folder), "base": str(Path.cwd()), "device": device, "threads": threads}
    with exclusive(folder / ".grid.lock", f"a grid in {folder}") as lock:
        config = folder / ("dry_run.json" if dry_run else "grid.json")
        write_text(config, json.dumps(graph, indent=1))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("grid.smk"))]
        command += ["--directory", str(folder), "--configfile", str(config), "--rerun-incomplete", "--keep-going"]
        command += ["--rerun-triggers", "mtime", "params", "--nolock", *(["--dry-run"] if dry_run else [])]
        command += ["--executor", executor, "--jobs", str(jobs)] if executor else ["--cores", str(jobs * threads)]
        command += ["--quiet", "host", "rules", *([] if dry_run else ["progress", "reason"])]
        code = subprocess.run([*command, *more], check=False, **inherited(lock)).returncode
    if dry_run:
        config.unlink()
    table = markdown(rows_of(grid, folder))
    if not dry_run:
        write_text(folder / "table.md", table + "\n")
    if code:
        raise FusionerError(_failures(grid, folder))
    return table


def require_grid_data(grid: Grid, folder: Path) -> None:
    """Raises FusionerError where a record in ``folder`` was measured on other data than there is now."""
    by_data: dict[str, list[str]] = {}
    runs = {job: RunConfig.flat(**leaves) for job, leaves in grid.jobs().items() if record_of(folder, job).is_file()}
    for job, run in runs.items():
        by_data.setdefault(run.data.model_dump_json(), []).append(job)
    for jobs in by_data.values():
        require_same_data([record_of(folder, job) for job in jobs], runs[jobs[0]])


def _failures(grid: Grid, folder: Path) -> str:
    """A message with the reasons why trainings have no record, each reason once."""
    missing = [job for job in grid.jobs() if not record_of(folder, job).is_file()]
    reasons = Counter(_reason(folder / "logs" / f"{job}.log") for job in missing)
    causes = "\n".join(f"  {count} x {reason}" for reason, count in reasons.most_common())
    return (
        f"{len(missing)} of {len(grid.jobs())} trainings have no record:\n{causes}\n"
        f"logs: {folder / 'logs'}; the others are in {folder / 'table.md'}. The same command goes on from here"
    )


def _reason(log: Path) -> str:
    """The last line of a failed training's log, which is its error message."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    written = [line.strip() for line in lines if line.strip()]
    return written[-1].removeprefix("fusioner: ") if written else "did not start; see the messages above"
