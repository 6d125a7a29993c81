"""What long work shows and asks for: a bar, or plain lines where nobody looks; and room on the disk."""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from tqdm import tqdm

from fusionerlib.errors import FusionerError

PATIENCE = 10.0
"""Seconds between plain lines, at first: long work writes one every ``SHARE`` of the time it took so far."""
SHARE = 0.05
Item = TypeVar("Item")

HEADLESS = "FUSIONER_HEADLESS"
"""Environment variable that the runner sets for the kernels it starts."""

FRONTENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""What the servers with a person in front of them put into a kernel's environment."""


def bar(what: str, *, total: int | None, done: int = 0, unit: str = "B", quiet: bool = False) -> Any:
    """To be told of each ``update(count)`` and closed, best by ``with``; bytes are written as kB, MB, ...

    A widget in JupyterLab, VS Code and Colab, a bar in a terminal. In executed notebooks, logs and pipes, where a bar
    would leave a tail of itself for each of its states: a plain line now and then, and one at the end.
    """
    if plain() and not quiet:
        return Lines(what, total=total, done=done, unit=unit)
    return rich()(desc=what, total=total, initial=done, unit=unit, unit_scale=unit == "B", disable=quiet)


def each(items: Iterable[Item], what: str, *, total: int, unit: str, quiet: bool = False) -> Iterator[Item]:
    """``items`` one by one, shown as ``bar`` does; each counts when the next is asked for."""
    with bar(what, total=total, unit=unit, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.update()


def headless() -> bool:
    """Whether nobody sits in front of this kernel: plain progress lines then, and no widgets.

    True under the project's runner, under plain papermill, and in scripts; False in JupyterLab, VS Code and Colab.
    """
    return HEADLESS in os.environ or not any(name in os.environ for name in FRONTENDS)


def plain() -> bool:
    """Whether what is shown goes neither to a person's notebook nor to a terminal."""
    return headless() and not sys.stderr.isatty()


def rich() -> Any:
    """The class of tqdm's bars here: widgets in a notebook with a person in front of it, text elsewhere."""
    if headless():  # in papermill's kernels tqdm.auto would make widgets too: dead text in the saved notebook
        return tqdm
    from tqdm.auto import tqdm as widgets_or_text  # takes asyncio, and in a kernel ipywidgets

    return widgets_or_text


class Lines:
    """Lines on stderr in place of a bar: ``what: 50%, 20 of 40 images, 4.0 images/s, 00:05 gone, 00:05 left``."""

    def __init__(self, what: str, *, total: int | None, done: int, unit: str) -> None:
        self.what, self.total, self.n, self.unit = what, total, done, unit
        self._first = self._told = done
        self._began = self._last = time.monotonic()

    def update(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.n += count
        now = time.monotonic()
        if now - self._last >= max(PATIENCE, SHARE * (now - self._began)):
            self._tell(now)

    def close(self) -> None:
        """The last line, where something was done since the one before."""
        if self.n != self._told:
            self._tell(time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, now: float) -> None:
        self._last, self._told = now, self.n
        seconds = max(now - self._began, 1e-9)
        rate = (self.n - self._first) / seconds
        # What was there already comes at once: no rate worth telling.
        gone = f", {self._rate(rate)}/s, {tqdm.format_interval(seconds)} gone" if seconds >= 1 else ""
        if not self.total:
            line = f"{self._amount(self.n)}{gone}"
        else:
            line = f"{self.n / self.total:.0%}, {self._amount(self.n, self.total)}{gone}"
            if self.n < self.total and gone:
                line += f", {tqdm.format_interval((self.total - self.n) / rate)} left"
        print(f"{self.what}: {line}", file=sys.stderr, flush=True)

    def _amount(self, *counts: int) -> str:
        if self.unit == "B":
            return " of ".join(map(size_text, counts))
        return f"{' of '.join(map(str, counts))} {self.unit}s"

    def _rate(self, rate: float) -> str:
        return size_text(round(rate)) if self.unit == "B" else f"{rate:.1f} {self.unit}s"


def need_room(folder: Path, needed: int, *, what: str) -> None:
    """Raises FusionerError where the disk of ``folder`` has fewer than ``needed`` bytes left for ``what``."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FusionerError(
            f"{what} needs {size_text(needed)} in {folder}, {size_text(free)} are free: make room or give another root"
        )


def size_text(count: int) -> str:
    """``count`` bytes for people, such as 440 MB or 1.4 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count} B"
