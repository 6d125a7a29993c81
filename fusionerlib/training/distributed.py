"""The processes that train one model together: those that accelerate launched, or an ordinary start's lone one."""

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

PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be measuring or drawing a data set meanwhile."""


@dataclass(frozen=True)
class Distributed:
    """Which of how many processes this one is, and what they do together. Every process must make the same calls.

    index: from 0, that of the main process, which alone writes files and shows progress. device: this process's own.
    """

    index: int
    count: int
    device: torch.device
    _accelerator: Any = None

    @classmethod
    def joined(cls, device: str = "") -> "Distributed":
        """The processes of the launch that this one is part of; alone, on ``device``, where there was none.

        device: "" for a GPU where there is one. In a launch, accelerate decides.
        Raises FusionerError for a device that is not here, and in a launch where accelerate is not installed.
        """
        if not torch.distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, chosen_device(device))
        try:
            from accelerate import Accelerator
            from accelerate.utils import InitProcessGroupKwargs
        except ImportError as error:
            raise FusionerError(
                "training in several processes needs accelerate: run `pip install -e '.[runs]'` in the clone"
            ) from error
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            # The run's config decides it, not the settings of the launch.
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.index == 0

    def share(self, batch: int, *, parts: int = 1) -> slice:
        """This process's rows of a batch, which is to be cut in ``parts`` of one size.

        Raises FusionerError where ``batch`` samples can't be shared equally: the mean of unequal shares' means is not
        the batch's.
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
        """The rows of a batch of ``batch`` samples that this process takes, as equal as whole samples can be shared.

        A batch with fewer samples than processes leaves some without one of their own: they take the first, since
        every process must go through the model, and count it for nothing (``has_rows``).
        """
        start, stop = (index * batch // self.count for index in (self.index, self.index + 1))
        return slice(start, stop) if stop > start else slice(0, 1)

    def has_rows(self, batch: int) -> bool:
        """Whether ``rows`` are this process's own."""
        return (self.index + 1) * batch // self.count > self.index * batch // self.count

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model`` so that a backward pass leaves the mean over all processes in its gradients."""
        return model if self._accelerator is None else self._accelerator.prepare_model(model)

    def apart(self, model: nn.Module) -> AbstractContextManager[None]:
        """Backward passes in here keep their gradients to themselves, until one outside."""
        context: AbstractContextManager[None] = nullcontext()
        return context if self._accelerator is None else self._accelerator.no_sync(model)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of every process's ``value``."""
        mean: Tensor = value if self._accelerator is None else self._accelerator.reduce(value, reduction="mean")
        return mean

    def gathered(self, rows: Tensor, *, total: int = 0) -> Tensor:
        """Every process's ``rows``, in the order of the processes.

        total: rows of all together where they are shared as ``rows`` says; 0 where all processes have as many.
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
        """Until every process is here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block first, then the others."""
        with nullcontext() if self._accelerator is None else self._accelerator.main_process_first():
            yield
