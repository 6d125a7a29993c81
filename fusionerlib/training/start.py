"""The checkpoint that a training starts from (leaf ``init``): whether it fits the run, its weights, its ancestry."""

from dataclasses import dataclass
from pathlib import Path

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint, Parent
from fusionerlib.config import ADJUSTABLE, NOT_INHERITED, RunConfig
from fusionerlib.datasets.names import category
from fusionerlib.errors import FusionerError
from fusionerlib.hub import find_checkpoint
from fusionerlib.models import SegmentationModel


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from. parents: it, then its own parents. init: the leaf that named it."""

    init: str
    checkpoint: Checkpoint
    parents: tuple[Parent, ...]

    def load_into(self, model: SegmentationModel) -> None:
        """Copy the weights into ``model``. Raises FusionerError where its tokens have another width."""
        old = self.checkpoint.model
        for side in ("visual", "text"):
            widths = getattr(old, f"{side}_width"), getattr(model, f"{side}_width")
            if widths[0] != widths[1]:
                raise FusionerError(
                    f"init {self.init!r} reads {side} tokens of width {widths[0]}, this run's are {widths[1]} wide: "
                    f"use the {side} encoder with the weights that it was trained with, or train without init"
                )
        model.load_weights(old.state_dict(), old.example_names)


def starting_point(run: RunConfig) -> Start | None:
    """The checkpoint that ``run.training.init`` names; None where it names none.

    Raises FusionerError where there is no such checkpoint, and, naming the leaf, where it has another pair of encoders,
    another model, or another spelling of names than ``run``, or was trained on a name that ``run`` holds out.
    """
    init = run.training.init
    if not init:
        return None
    folder = find_checkpoint(init)
    checkpoint = checkpoints.load(folder)
    old = checkpoint.run
    compared = [
        *((leaf, value, getattr(run.pair, leaf)) for leaf, value in old.pair if leaf not in NOT_INHERITED),
        *((leaf, value, getattr(run.fusion, leaf)) for leaf, value in old.fusion if leaf not in ADJUSTABLE),
        ("names", old.data.names, run.data.names),
    ]
    for leaf, before, now in compared:
        if before != now:
            raise FusionerError(
                f"init {init!r} has {leaf} = {before!r}, this run {leaf} = {now!r}: set {leaf} = {before!r}, or give "
                f"neither {leaf} nor a preset, which takes both from the checkpoint, or train without init"
            )
    gone = {category(name) for name in run.data.held_out}
    if known := [name for name in checkpoint.trained_names if category(name) in gone]:
        raise FusionerError(
            f"held_out {known[0]!r}: init {init!r} was trained on it, so it would not be unseen: hold out another "
            "name, or train without init"
        )
    # A folder's name, not its path: checkpoints are handed on to other machines.
    name = Path(init).name if Path(init).exists() else init
    parent = Parent(checkpoint=name, sha256=checkpoints.weights_sha256(folder))
    return Start(init=init, checkpoint=checkpoint, parents=(parent, *checkpoint.parents))
