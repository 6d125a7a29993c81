"""A run from its config to its checkpoint, its evaluation and its record, in one process or several."""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import PLACES, RunConfig
from fusionerlib.datasets.check import plausible
from fusionerlib.datasets.pascal import NO_FOLD
from fusionerlib.datasets.transforms import Subset
from fusionerlib.evaluation.evaluator import Evaluator
from fusionerlib.evaluation.forgetting import Forgetting, measure_forgetting
from fusionerlib.evaluation.scoring import validation
from fusionerlib.features.context import RunContext
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.files import ready_folder
from fusionerlib.models import build
from fusionerlib.records import write_run_record
from fusionerlib.training.batch_sources import BatchSource, names_of, training_batch_source
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.loop import Validate, train
from fusionerlib.training.resume import History
from fusionerlib.training.start import starting_point
from fusionerlib.training.steps import in_steps

VALIDATION_SCENES = 100
FORGETTING_SCENES = 40


@dataclass(frozen=True)
class TrainedRun:
    """A run after its training. history: a row for each step (step, loss, lr, validation figures), empty for a model
    without parameters. seconds, core_seconds: wall time, and processor time of this process, of the training."""

    context: RunContext
    checkpoint: Checkpoint
    history: History
    seconds: float
    core_seconds: float

    @property
    def loss(self) -> float | None:
        """The loss of the last step; None for a model without parameters."""
        return self.history[-1]["loss"] if self.history else None

    def mean_loss(self, steps: int) -> float:
        """The mean loss of the last ``steps`` steps."""
        return statistics.mean(row["loss"] for row in self.history[-steps:])

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return self.checkpoint.model.trainable()["total"]

    def evaluator(self, *, threshold: float = 0.5) -> Evaluator:
        """An evaluator of the checkpoint."""
        return Evaluator(self.context, self.checkpoint, threshold=threshold)

    def forgetting(self, *, quiet: bool = False) -> Forgetting | None:
        """What the training did to the names of the checkpoint that it started from (leaf ``init``).

        On the first validation images. None for a training that started from no checkpoint or has no such images.
        """
        start, tests = starting_point(self.checkpoint.run), self.context.sets.tests
        if start is None or not tests:
            return None
        scenes = next(iter(tests.values()))
        few = Subset(scenes, range(min(FORGETTING_SCENES, len(scenes))))
        return measure_forgetting(
            start.checkpoint.model.to(self.context.device),
            self.checkpoint.model,
            self.context.features(few, "validation features", quiet=quiet),
            self.context.text_cache,
            old_names=start.checkpoint.trained_names,
        )


def train_run(
    context: RunContext,
    *,
    directory: Path,
    source: BatchSource | None = None,
    text_cache: TextEmbeddingCache | None = None,
    validate: Validate | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train ``context.run``. A model without parameters is only built.

    The checkpoint's run has the steps that its epochs made. directory, validate, quiet: as in ``train``. source: the
    run's own batch source (``training_batch_source``) if None. text_cache: the context's own if None.
    Raises FusionerError as ``train`` does, and if data or weights are missing.
    """
    text_cache = context.text_cache if text_cache is None else text_cache
    source = training_batch_source(context, quiet=quiet) if source is None else source
    run = in_steps(context.run, pairs=len(source.pairs()))
    started, core_started = time.perf_counter(), time.process_time()
    model = build(run.fusion, visual_width=source.width, text_width=text_cache.encoder.width)
    history: History = []
    if list(model.parameters()):
        model, history = train(
            run=run,
            source=source,
            text_cache=text_cache,
            directory=directory,
            validate=validate,
            quiet=quiet,
            device=context.device,
        )
    else:
        model.eval().to(context.device)
        if not quiet:
            print(f"{run.fusion.kind}: nothing to train, it has no parameters")
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - core_started
    start = starting_point(run)
    own, before = names_of(source.pairs()), start.checkpoint.trained_names if start else ()
    parents = start.parents if start else ()
    checkpoint = Checkpoint(model=model, run=run, trained_names=tuple(sorted({*own, *before})), parents=parents)
    return TrainedRun(context, checkpoint, history, seconds, core_seconds)


def train_and_evaluate(
    context: RunContext,
    *,
    directory: Path,
    record: Path,
    evaluate: Callable[[TrainedRun], Mapping[str, Any]],
    checkpoint: Path | None = None,
    keep: bool = False,
    source: BatchSource | None = None,
    validate: Validate | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train ``context.run``, evaluate it, and write the file ``record``: config, environment, ``data`` (the
    fingerprint of the data sets), and what was measured.

    evaluate: returns the record's further entries. checkpoint: a folder to save the trained model in, None for none.
    keep: whether the running checkpoint in ``directory`` stays after the record is written. The other parameters are
    those of ``train_run``. In a launch by accelerate every process calls this; only the main one evaluates and writes.
    """
    trained = train_run(context, directory=directory, source=source, validate=validate, quiet=quiet)
    distributed = Distributed.joined(context.device)
    if distributed.main:
        if checkpoint is not None:
            made = trained.checkpoint
            checkpoints.save(
                checkpoint, model=made.model, run=made.run, trained_names=made.trained_names, parents=made.parents
            )
        write_run_record(record, trained.checkpoint.run, data=context.sets.fingerprint, **evaluate(trained))
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    distributed.wait()
    return trained


def fit(run: RunConfig, folder: Path | str, *, device: str = "", strict: bool = False, quiet: bool = False) -> Path:
    """Train ``run``; write ``checkpoint`` and ``records/training.json`` into ``folder``; returns the checkpoint's path.

    Call it once, or in every process of a launch by accelerate (``notebook_launcher`` takes it as its function). An
    interrupted run goes on, with any number of processes. device: of a single process; "" takes a GPU if there is one.
    strict: of one's own folder, stop where ``fusioner data check`` warns too.
    Raises FusionerError as ``train_run`` does, and for a folder that ``check.plausible`` refuses.
    """
    folder = Path(folder)
    distributed = Distributed.joined(device)
    if distributed.main:
        ready_folder(folder)
        plausible(run.data, strict=strict, quiet=quiet)
    context = RunContext(run, device=str(distributed.device))
    # OpenMoji's scenes are drawn here if they are missing.
    with distributed.main_first():
        tests = {name: scenes for name, scenes in context.sets.tests.items() if name == "seen"}
    quiet = quiet or not distributed.main
    source = training_batch_source(context, quiet=quiet)
    stored = {name: context.features(scenes, "test features", quiet=quiet) for name, scenes in tests.items()}

    def evaluate(trained: TrainedRun) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "loss": trained.loss,
            "parameters": trained.parameters,
            "processes": distributed.count,
        }
        if forgotten := trained.forgetting(quiet=quiet):
            print(forgotten.report(trained.checkpoint.run), file=sys.stderr, flush=True)
            figures["forgetting"] = forgotten.figures()
        return {"history": trained.history, **figures}

    train_and_evaluate(
        context,
        directory=folder / "training",
        record=folder / "records" / "training.json",
        evaluate=evaluate,
        checkpoint=folder / "checkpoint",
        keep=True,
        source=source,
        validate=validation(stored, context.text_cache, scenes=VALIDATION_SCENES),
        quiet=quiet,
    )
    return folder / "checkpoint"


def packaged_run(
    *,
    voc: Path,
    coco: Path,
    camvid: Path | None = None,
    features: Path,
    fold: int = NO_FOLD,
    steps: int = 2000,
    size: int = 320,
    seed: int = 0,
    **changes: Any,
) -> RunConfig:
    """The run of the packaged checkpoint: ``modern`` on VOC, COCO and CamVid together, with no class held out.

    camvid: None trains without CamVid, whose images alone show surfaces such as road and sky labelled.
    Images of PASCAL-5i's validation lists are not trained on. fold: hold out that fold of PASCAL-5i, to evaluate the
    same recipe on unseen classes. changes: leaves to change, as in ``RunConfig.changed``.
    """
    leaves: dict[str, Any] = {
        "preset": "modern",
        "dataset": "photos",
        "root": voc,
        "coco": coco,
        "camvid": camvid,
        "fold": fold,
        "features": features,
        "size": size,
        "steps": steps,
        "validate_every": steps,
        "seed": seed,
    }
    # The steps are given again: a recipe with epochs among the changes would replace them.
    return RunConfig.flat(**leaves).changed(**{"steps": steps, **changes})


def train_packaged(run: RunConfig, target: Path, *, quiet: bool = False) -> Path:
    """Train ``run`` and save its checkpoint in ``target`` with parameters in float16; returns ``target``.

    An interrupted training goes on. Raises FusionerError if data is missing.
    """
    running = ready_folder(target) / "training"
    made = train_run(RunContext(run), directory=running, quiet=quiet).checkpoint
    # Paths of the machine that trained it do not belong into a published checkpoint.
    data = made.run.data
    plain = made.run.changed(**{place: Path("data") / place for place in PLACES if getattr(data, place) is not None})
    checkpoints.save(target, model=made.model, run=plain, trained_names=made.trained_names, number_format=torch.half)
    shutil.rmtree(running, ignore_errors=True)
    return target
