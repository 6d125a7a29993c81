"""The checkpoint inside the package: how it was made, and how to make it again from photographs one has."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from fusionerlib import checkpoints
from fusionerlib.config import PLACES, RunConfig
from fusionerlib.datasets.pascal import NOTHING
from fusionerlib.features.context import RunContext
from fusionerlib.runs import trained
from fusionerlib.training.batch_sources import training_batch_source

NAME = "packaged"
"""What ``Segmenter.load`` calls it."""


def folder() -> Path:
    """Where it lies, as any checkpoint does: ``config.json`` and ``model.safetensors``, with a card beside them."""
    return Path(str(resources.files("fusionerlib") / "checkpoint"))


def recipe(
    *,
    voc: Path,
    coco: Path,
    features: Path,
    fold: int = NOTHING,
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


def rebuild(run: RunConfig, target: Path, *, quiet: bool = False) -> Path:
    """Trains ``run`` and leaves its checkpoint in ``target``, parameters in half precision; returns the folder.

    A rebuild that was stopped goes on from its last running checkpoint. Raises FusionerError where data is missing.
    """
    work, running = RunContext(run), target / "training"
    made, _ = trained(work, training_batch_source(work), directory=running, quiet=quiet)
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
