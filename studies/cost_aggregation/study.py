"""A study of what makes words carry over: one setting changed at a time, by fold of PASCAL-5i and seed.

The trainings of a transfer study: features once, then each trial trained, measured, and left as a record.
"""

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.evaluator import Evaluator
from fusionerlib.features.context import RunContext
from fusionerlib.progress import each
from fusionerlib.records import write_run_record
from fusionerlib.runs import packaged_run, trained
from fusionerlib.training.batch_sources import training_batch_source
from studies.cost_aggregation.measures import bars
from studies.records import PhotoStudy, finished, rows_of

CLASSES = ("cat", "chair", "cow", "dog", "horse", "person", "sheep", "couch")
"""Classes with at least ten published validation pairs among the photographs that this was made with."""

Changes = Mapping[str, Any]
PLAIN = {"visual_tokens": "", "text_tokens": "", "templates": "none", "synonyms": "", "similarity": "learned"}
"""The pair as it came: two spaces, tied by a learned map."""

CONTROLS: dict[str, Changes] = {
    "class-agnostic": {**PLAIN, "text": "constant", "positives": 1, "negatives": 0},
    "bmvc2022 recipe": {**PLAIN, "similarity": "cosine", "preset": "small", "recipe": "bmvc2022"},
    "CLIP text vectors": {**PLAIN, "text": "vectors:{vectors}"},
}
"""What `modern` is compared with.

The first trains on one present name's mask at a time, with one word for all names: it learns to guess which object is
asked for. The control of that name in ``methods`` trains on all objects of an image as one mask instead, to see how far
mosaics can be answered without names; neither can stand for the other where an image shows several names. The second is
the paper's architecture at the size of ``small``.
"""

VARIANTS: dict[str, Changes] = {
    "unaligned MiniLM": PLAIN,
    "ConSE vectors": {"visual_tokens": "conse", "text_tokens": "", "similarity": "cosine"},
    "no clothes for person": {"synonyms": ""},
    "templates: eight": {"templates": "eight"},
    "no negatives": {"negatives": 0},
    "6 negatives": {"negatives": 6},
    "hard negatives": {"hard_negatives": 0.5},
    "names drawn evenly": {"balanced": True},
    "BCE alone": {"loss": "bce"},
    "focal + Dice": {"loss": "focal+dice"},
    "no confidence rescaling": {"confidence_rescaling": 0.0},
    "two views": {"views": 2},
    "224 pixels": {"size": 224},
    "448 pixels": {"size": 448},
    "no decoder": {"decoder_scales": ()},
    "decoder to 4 x": {"decoder_scales": (2, 4)},
    "no guidance channels": {"guidance_channels": 1},
    "half as wide": {"width": 24},
    "three blocks": {"depth": 3},
}
"""One thing each that differs from ``modern``."""

LACKING = frozenset(
    {
        "unaligned MiniLM",
        "ConSE vectors",
        "no clothes for person",
        "no negatives",
        "BCE alone",
        "no confidence rescaling",
    }
    | {"224 pixels", "no decoder", "no guidance channels", "half as wide"}
)
"""Those that lack what ``modern`` has: their loss is what it gains by it. The others try what it does not have."""

BASE = "modern"
SETTINGS: dict[str, Changes] = {BASE: {}, **CONTROLS, **VARIANTS}


@dataclass(frozen=True)
class Trial:
    """One training: which setting, which fold is held out, which seed, for how many steps of 12 images."""

    setting: str
    fold: int
    seed: int
    steps: int

    @property
    def stem(self) -> str:
        """Its name among files."""
        plain = "".join(letter if letter.isalnum() else "-" for letter in self.setting.lower())
        return f"{plain}-steps{self.steps}-fold{self.fold}-seed{self.seed}"


class CostAggregationStudy(PhotoStudy):
    """What is tried, on what, and for how long; the parameters of notebook 08.

    Everything goes into the folder ``transfer`` of ``run_dir``.
    settings: names of ``SETTINGS`` beside ``modern``, which is always there. seeds, steps: of ``modern``; the controls
    have the first ``control_seeds`` of them. The other settings have the first ``variant_seeds`` and ``variant_steps``
    steps, and ``modern`` is trained so too with all seeds, to compare them with. jobs: trainings at a time, each on its
    share of the cores. page: the Markdown file to write, "" for ``table.md`` in ``folder``.
    """

    control_seeds: int = Field(default=1, ge=1)
    variant_seeds: int = Field(default=1, ge=1)
    settings: tuple[str, ...] = tuple(CONTROLS)
    steps: int = Field(default=600, ge=1)
    variant_steps: int = Field(default=150, ge=1)
    size: int = Field(default=320, ge=32, multiple_of=32)
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    jobs: int = Field(default=1, ge=1)
    page: str = ""

    @field_validator("settings")
    @classmethod
    def _known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in given if name not in SETTINGS]:
            raise ValueError(f"no setting {unknown[0]!r}: known are {', '.join(SETTINGS)}")
        return tuple(dict.fromkeys((BASE, *given)))

    @property
    def folder(self) -> Path:
        """Where records and features go."""
        return self.directory / "transfer"

    @property
    def file(self) -> Path:
        """Where the page goes."""
        return Path(self.page) if self.page else self.folder / "table.md"

    @property
    def needs_vectors(self) -> bool:
        """Where a control has them."""
        return "CLIP text vectors" in self.settings

    def trials(self) -> list[Trial]:
        """Every training, ``modern`` and the controls first, one seed after the other."""
        main = [name for name in self.settings if name not in VARIANTS]
        others = [name for name in self.settings if name in VARIANTS]
        parts = (
            ([BASE], self.seeds, self.steps),
            (main, self.seeds[: self.control_seeds], self.steps),
            ([BASE] if others else [], self.seeds, self.variant_steps),
            (others, self.seeds[: self.variant_seeds], self.variant_steps),
        )
        trials = [
            Trial(name, fold, seed, steps)
            for names, seeds, steps in parts
            for seed in seeds
            for name in names
            for fold in self.folds
        ]
        return list(dict.fromkeys(trials))

    def main(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of ``rows`` that are the full trainings of ``modern`` and the controls."""
        return [row for row in rows if row["steps"] == self.steps and row["setting"] not in VARIANTS]

    def short(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of ``rows`` that are the short trainings of ``modern`` and of what differs from it in one thing."""
        return [row for row in rows if row["steps"] == self.variant_steps and row["setting"] in (BASE, *VARIANTS)]

    def run_of(self, trial: Trial) -> RunConfig:
        """The config of one training."""
        changes = dict(SETTINGS[trial.setting])
        # The paper's batches are larger: as many images are seen.
        steps = max(1, trial.steps * 12 // 32) if changes.get("recipe") == "bmvc2022" else trial.steps
        changes = {
            key: value.format(vectors=self.vectors) if isinstance(value, str) else value
            for key, value in changes.items()
        }
        return packaged_run(
            **{
                "voc": self.voc_root,
                "coco": self.coco_root,
                "features": self.folder / "features",
                "fold": trial.fold,
                "steps": steps,
                "warmup": min(30, steps),
                "checkpoint_every": steps,
                "size": self.size,
                "seed": trial.seed,
                **changes,
            }
        )


LEVELS = tuple(round(level / 100, 2) for level in range(30, 95, 5))
"""Thresholds that a record has the figures of."""


def compare(study: CostAggregationStudy, *, quiet: bool = False) -> list[dict[str, Any]]:
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


def run_trial(study: CostAggregationStudy, trial: Trial, threads: int) -> None:
    """Train and measure one trial on ``threads`` threads, and leave its record.

    Measured are ``bars``, loss (of the last 50 steps), parameters, images (seen in training), core seconds (processor
    time of the training in this process, of what was left of it where an earlier start was stopped), threads.
    """
    torch.set_num_threads(threads)
    run = study.run_of(trial)
    folder = study.folder / "training" / trial.stem
    context = RunContext(run)
    feed = training_batch_source(context)
    started = time.process_time()
    made, history = trained(context, feed, directory=folder, quiet=True)
    seconds = time.process_time() - started
    evaluator = Evaluator(context, made, threshold=study.threshold)
    measured = {
        **bars(evaluator, classes=CLASSES, thresholds=LEVELS),
        "loss": statistics.mean(row["loss"] for row in history[-50:]),
        "parameters": made.model.trainable()["total"],
        "images": run.training.steps * run.training.batch,
        "core seconds": seconds,
        "threads": threads,
    }
    write_run_record(study.record(trial), run, measured=measured, trained_names=made.trained_names)
    shutil.rmtree(folder, ignore_errors=True)
