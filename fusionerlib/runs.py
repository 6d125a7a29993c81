"""A run from its config to its checkpoint, in one process or in as many as accelerate launched."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import PLACES, RunConfig
from fusionerlib.datasets.pascal import NO_FOLD
from fusionerlib.evaluation.scoring import validation
from fusionerlib.features.context import RunContext
from fusionerlib.models import SegmentationModel, build
from fusionerlib.records import write_run_record
from fusionerlib.training.batch_sources import BatchSource, names_of, training_batch_source
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.loop import train
from fusionerlib.training.resume import History

CHECKED = 100
"""Scenes of a validation during training."""


def trained(
    context: RunContext,
    feed: BatchSource,
    *,
    directory: Path,
    validate: Callable[[SegmentationModel], dict[str, float]] | None = None,
    quiet: bool = False,
) -> tuple[Checkpoint, History]:
    """The run of ``context`` trained on ``feed``, and its history; directory, validate, quiet: as in ``train``.

    A model without parameters is only built: its history is empty.
    """
    run, text_cache = context.run, context.text_cache
    model = build(run.fusion, visual_width=feed.width, text_width=text_cache.encoder.width).eval()
    history: History = []
    if list(model.parameters()):
        model, history = train(
            run=run,
            scenes=feed,
            text_cache=text_cache,
            directory=directory,
            validate=validate,
            quiet=quiet,
            device=context.device,
        )
    elif not quiet:
        print(f"{run.fusion.kind}: nothing to train, its checkpoint is the model as it is")
    return Checkpoint(model=model, run=run, trained_names=names_of(feed.pairs())), history


def fit(run: RunConfig, folder: Path | str, *, device: str = "", quiet: bool = False) -> Path:
    """Trains ``run`` and leaves ``checkpoint`` and ``records/training.json`` in ``folder``; returns the checkpoint's.

    To be called once, or by every process of a launch: they share the extraction of features and every batch, and
    the main one writes. A run that was stopped goes on, with any number of processes. As the function of accelerate's
    ``notebook_launcher`` it trains from a notebook. device: of an ordinary start; "" for a GPU where there is one.
    Raises FusionerError as ``train`` does, and where data or weights are missing.
    """
    folder = Path(folder)
    team = Distributed.joined(device)
    context = RunContext(run, device=str(team.device))
    # OpenMoji's scenes are drawn here, where they are missing.
    with team.main_first():
        tests = {name: scenes for name, scenes in context.sets.tests.items() if name == "seen"}
    quiet = quiet or not team.main
    feed = training_batch_source(context, quiet=quiet)
    stored = {
        name: context.store.add(scenes, description="test features", quiet=quiet) for name, scenes in tests.items()
    }
    validate = validation(stored, context.text_cache, scenes=CHECKED)
    made, history = trained(context, feed, directory=folder / "training", validate=validate, quiet=quiet)
    if team.main:
        checkpoints.save(folder / "checkpoint", model=made.model, run=run, trained_names=made.trained_names)
        loss = history[-1]["loss"] if history else None
        last = {"loss": loss, "parameters": made.model.trainable()["total"], "processes": team.count}
        write_run_record(folder / "records" / "training.json", run, history=history, **last)
    team.wait()
    return folder / "checkpoint"


def packaged_run(
    *,
    voc: Path,
    coco: Path,
    features: Path,
    fold: int = NO_FOLD,
    steps: int = 600,
    size: int = 320,
    seed: int = 0,
    **changes: Any,
) -> RunConfig:
    """The run that makes it: ``modern`` for the packaged pair in one space, VOC and COCO together, no class held out.

    With a ``fold`` of PASCAL-5i held out the same recipe can be measured on classes that it never saw. changes: leaves
    that are to differ, as in ``RunConfig.changed``.

    Images of PASCAL-5i's validation lists do not train, so that its pictures can be shown.
    """
    leaves: dict[str, Any] = {
        "preset": "modern",
        "dataset": "photos",
        "root": voc,
        "coco": coco,
        "fold": fold,
        "features": features,
        "size": size,
        "steps": steps,
        "validate_every": steps,
        "seed": seed,
    }
    return RunConfig.flat(**leaves).changed(**changes)


def train_packaged(run: RunConfig, target: Path, *, quiet: bool = False) -> Path:
    """Trains ``run`` and leaves its checkpoint in ``target``, parameters in half precision; returns the folder.

    A rebuild that was stopped goes on from its last running checkpoint. Raises FusionerError where data is missing.
    """
    context, running = RunContext(run), target / "training"
    made, _ = trained(context, training_batch_source(context), directory=running, quiet=quiet)
    # Where the data lay is nobody's business but its owner's.
    plain = run.changed(**{place: Path("data") / place for place in PLACES})
    checkpoints.save(
        target,
        model=made.model,
        run=plain,
        trained_names=made.trained_names,
        number_format=torch.half,
    )
    shutil.rmtree(running, ignore_errors=True)
    return target
