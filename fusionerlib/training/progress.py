"""The progress of a training: a bar or plain lines with loss and images per second, and scalars for TensorBoard."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fusionerlib.errors import FusionerError
from fusionerlib.progress import bar


class TrainingProgress:
    """Shows the steps of a training and writes its scalars.

    total: number of steps. done: steps that an earlier start did. batch: images a step, over all processes.
    tensorboard: folder for TensorBoard's event files, None for none; steps after ``done`` that an interrupted training
    wrote there are removed. quiet: show nothing.
    Raises FusionerError if TensorBoard is asked for and not installed.
    """

    def __init__(
        self, *, total: int, done: int, batch: int, quiet: bool = False, tensorboard: Path | None = None
    ) -> None:
        self.first, self.batch = done, batch
        self._bar = bar("training", total=total, done=done, unit="step", quiet=quiet)
        self._writer = None if tensorboard is None else _writer(tensorboard, done)
        self._start = time.monotonic()

    def step(self, row: dict[str, Any]) -> None:
        """Count one more step. row: its number (from 1) ``step``, ``loss``, ``lr``, and validation figures if any."""
        images = (row["step"] - self.first) * self.batch / max(time.monotonic() - self._start, 1e-9)
        self._bar.set_postfix(loss=f"{row['loss']:.3f}", images_s=f"{images:.1f}", refresh=False)
        self._bar.update()
        if self._writer is not None:
            for name, value in {**row, "images/s": images}.items():
                if name != "step":
                    group = "training" if name in ("loss", "lr", "images/s") else "validation"
                    self._writer.add_scalar(f"{group}/{name}", value, row["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise FusionerError(
            "tensorboard = True needs TensorBoard: run `pip install 'fusioner[runs]'` in the clone, "
            "or set tensorboard to False"
        ) from error
    return SummaryWriter(str(folder), purge_step=done + 1, flush_secs=10)
