"""What is seen of a training under way: a bar, or plain lines where nobody sits in front; and TensorBoard's scalars."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from fusionerlib.errors import FusionerError
from fusionerlib.progress import PATIENCE, SHARE, plain, tqdm_class


class TrainingProgress:
    """Shows the steps of a training that ends after ``total`` of them, ``done`` of which an earlier start did.

    batch: images a step, of all processes. tensorboard: a folder for its event files, None for none; the steps after
    ``done`` that a stopped training wrote there are taken back. quiet: nothing is shown.
    Raises FusionerError where TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        *,
        total: int,
        done: int,
        batch: int,
        quiet: bool = False,
        tensorboard: Path | None = None,
    ) -> None:
        self.total, self.done, self.first, self.batch, self.quiet = total, done, done, batch, quiet
        self.stream = sys.stderr
        self._lines = plain() and not quiet
        self._bar = tqdm_class()(total=total, initial=done, desc="training", unit="step", disable=quiet or self._lines)
        self._writer = None if tensorboard is None else _writer(tensorboard, done)
        self._began = self._told = time.monotonic()

    def step(self, row: dict[str, Any]) -> None:
        """One more step was done: ``row`` has its number (from 1), loss and lr, and validation figures if any."""
        self.done = row["step"]
        seconds = time.monotonic() - self._began
        rate = (self.done - self.first) / max(seconds, 1e-9)
        images = rate * self.batch
        self._bar.set_postfix(loss=f"{row['loss']:.3f}", images_s=f"{images:.0f}", refresh=False)
        self._bar.update()
        last = self.done == self.total
        if self._lines and (last or time.monotonic() - self._told >= max(PATIENCE, SHARE * seconds)):
            self._told = time.monotonic()
            left = tqdm.format_interval((self.total - self.done) / rate)
            told = f"step {self.done}/{self.total}, loss {row['loss']:.3f}, {images:.1f} images/s"
            print(f"training: {told}, {tqdm.format_interval(seconds)} gone, {left} left", file=self.stream, flush=True)
        if self._writer is not None:
            for name, value in {**row, "images/s": images}.items():
                if name != "step":
                    group = "training" if name in ("loss", "lr", "images/s") else "validation"
                    self._writer.add_scalar(f"{group}/{name}", value, self.done)

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
            "tensorboard = True needs TensorBoard: run `pip install -e '.[runs]'` in the clone, "
            "or set tensorboard to False"
        ) from error
    return SummaryWriter(str(folder), purge_step=done + 1, flush_secs=10)
