"""A run from its config to its checkpoint, in one process or in as many as accelerate launched."""

from pathlib import Path

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.evaluation import validation
from fusionerlib.feeds import training_feed
from fusionerlib.processes import Processes
from fusionerlib.records import write_run_record
from fusionerlib.training import train
from fusionerlib.workspace import Workspace

CHECKED = 100
"""Scenes of a validation during training."""


def fit(run: RunConfig, folder: Path | str, *, device: str = "", quiet: bool = False) -> Path:
    """Trains ``run`` and leaves ``checkpoint`` and ``records/training.json`` in ``folder``; returns the checkpoint's.

    To be called once, or by every process of a launch: they share the extraction of features and every batch, and
    the main one writes. A run that was stopped goes on, with any number of processes. As the function of accelerate's
    ``notebook_launcher`` it trains from a notebook. device: of an ordinary start; "" for a GPU where there is one.
    Raises FusionerError as ``train`` does, and where data or weights are missing.
    """
    folder = Path(folder)
    team = Processes.joined(device)
    work = Workspace(run, device=str(team.device))
    # OpenMoji's scenes are drawn here, where they are missing.
    with team.main_first():
        tests = {name: scenes for name, scenes in work.sets.tests.items() if name == "seen"}
    quiet = quiet or not team.main
    feed = training_feed(work, quiet=quiet)
    stored = {name: work.store.add(scenes, description="test features", quiet=quiet) for name, scenes in tests.items()}
    model, history = train(
        run=run,
        scenes=feed,
        words=work.words,
        directory=folder / "training",
        validate=validation(stored, work.words, scenes=CHECKED),
        quiet=quiet,
        device=device or str(team.device),
    )
    if team.main:
        trained = sorted({name for _, name in feed.pairs()})
        checkpoints.save(folder / "checkpoint", model=model, run=run, trained_names=trained)
        last = {"loss": history[-1]["loss"], "parameters": model.trainable()["total"], "processes": team.count}
        write_run_record(folder / "records" / "training.json", run, history=history, **last)
    team.wait()
    return folder / "checkpoint"
