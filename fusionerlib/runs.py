"""A run from its config to its checkpoint, in one process or in as many as accelerate launched."""

from collections.abc import Callable
from pathlib import Path

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import RunConfig
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
    work: RunContext,
    feed: BatchSource,
    *,
    directory: Path,
    validate: Callable[[SegmentationModel], dict[str, float]] | None = None,
    quiet: bool = False,
) -> tuple[Checkpoint, History]:
    """The run of ``work`` trained on ``feed``, and its history; directory, validate, quiet: as in ``train``.

    A model without parameters is only built: its history is empty.
    """
    run, words = work.run, work.words
    model = build(run.fusion, visual_width=feed.width, text_width=words.encoder.width).eval()
    history: History = []
    if list(model.parameters()):
        model, history = train(
            run=run,
            scenes=feed,
            words=words,
            directory=directory,
            validate=validate,
            quiet=quiet,
            device=work.device,
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
    work = RunContext(run, device=str(team.device))
    # OpenMoji's scenes are drawn here, where they are missing.
    with team.main_first():
        tests = {name: scenes for name, scenes in work.sets.tests.items() if name == "seen"}
    quiet = quiet or not team.main
    feed = training_batch_source(work, quiet=quiet)
    stored = {name: work.store.add(scenes, description="test features", quiet=quiet) for name, scenes in tests.items()}
    measure = validation(stored, work.words, scenes=CHECKED)
    made, history = trained(work, feed, directory=folder / "training", validate=measure, quiet=quiet)
    if team.main:
        checkpoints.save(folder / "checkpoint", model=made.model, run=run, trained_names=made.trained_names)
        loss = history[-1]["loss"] if history else None
        last = {"loss": loss, "parameters": made.model.trainable()["total"], "processes": team.count}
        write_run_record(folder / "records" / "training.json", run, history=history, **last)
    team.wait()
    return folder / "checkpoint"
