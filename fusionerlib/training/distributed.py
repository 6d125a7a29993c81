"""Distributed training: the processes that accelerate launched for one training, or a single process."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from fusionerlib.devices import chosen_device
from fusionerlib.errors import FusionerError

TIMEOUT = timedelta(hours=2)
"""How long a process waits for another one, which may be evaluating or drawing a data set."""


@dataclass(frozen=True)
class Distributed:
    """This process's place among the processes of a training, and their communication.

    Every process must make the same calls in the same order. index: rank of this process; 0 is the main process, the
    only one that writes files and shows progress. count: number of processes. device: this process's own.
    """

    index: int
    count: int
    device: torch.device
    _accelerator: Any = None

    @classmethod
    def joined(cls, device: str = "") -> "Distributed":
        """The processes of the current launch; a single process on ``device`` if there was no launch.

        device: "" takes a GPU if there is one. In a launch accelerate chooses the device.
        Raises FusionerError if the device does not exist, and in a launch if accelerate is not installed.
        """
        if not torch.distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, chosen_device(device))
        try:
            from accelerate import Accelerator
            from accelerate.utils import InitProcessGroupKwargs
        except ImportError as error:
            raise FusionerError(
                "training in several processes needs accelerate: run `pip install 'fusioner[runs]'` in the clone"
            ) from error
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            # Precision comes from the run's config, not from the settings of the launch.
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator)

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.index == 0

    def share(self, batch: int, *, parts: int = 1) -> slice:
        """The rows of a batch that this process takes; they are split further into ``parts`` of equal size.

        Raises FusionerError if ``batch`` is not divisible by processes times parts: the mean over unequal shares'
        means would not be the batch's mean.
        """
        if batch % (self.count * parts):
            good = max(1, round(batch / (self.count * parts))) * self.count * parts
            each = f", each in {parts} parts" if parts > 1 else ""
            raise FusionerError(
                f"a batch of {batch} can't be shared equally by {self.count} process{'es' * (self.count > 1)}{each}: "
                f"set batch to a multiple of {self.count * parts}, such as {good}, or change "
                "accumulate or the number of processes"
            )
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def rows(self, batch: int) -> slice:
        """The rows of a batch of ``batch`` samples that this process takes; numbers of rows differ by one at most.

        With fewer samples than processes, those without a sample take the first one, since every process must call the
        model, with weight 0 (``has_rows``).
        """
        start, stop = (index * batch // self.count for index in (self.index, self.index + 1))
        return slice(start, stop) if stop > start else slice(0, 1)

    def has_rows(self, batch: int) -> bool:
        """Whether this process has rows of its own in a batch of ``batch`` samples."""
        return (self.index + 1) * batch // self.count > self.index * batch // self.count

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model`` wrapped so that a backward pass averages gradients over all processes."""
        return model if self._accelerator is None else self._accelerator.prepare_model(model)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Skip gradient synchronisation in this context (accelerate's ``no_sync``)."""
        context: AbstractContextManager[None] = nullcontext()
        return context if self._accelerator is None else self._accelerator.no_sync(model)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over all processes."""
        mean: Tensor = value if self._accelerator is None else self._accelerator.reduce(value, reduction="mean")
        return mean

    def gather(self, rows: Tensor, *, total: int = 0) -> Tensor:
        """The rows of all processes, concatenated in the order of their indices.

        total: number of rows of all processes if they are shared as in ``rows``; 0 if all processes have equally many.
        """
        if self._accelerator is None:
            return rows
        everything: Tensor
        if total % self.count == 0:
            everything = self._accelerator.gather(rows)
            return everything
        most = -(-total // self.count)
        everything = self._accelerator.gather(torch.cat([rows, rows[:1].expand(most - len(rows), *rows.shape[1:])]))
        shares = [(index + 1) * total // self.count - index * total // self.count for index in range(self.count)]
        return torch.cat([part[:own] for part, own in zip(everything.split(most), shares, strict=True)])

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first, then in the others."""
        with nullcontext() if self._accelerator is None else self._accelerator.main_process_first():
            yield
