"""Long work: its progress (a bar in a notebook or terminal, plain lines in a log), threads ahead of it, free disk."""

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from tqdm import tqdm

from fusionerlib.errors import FusionerError

PATIENCE = 10.0
"""Seconds between two plain lines, at least."""
SHARE = 0.05
"""The interval between plain lines as a share of the time so far, where that is longer than ``PATIENCE``."""
Item = TypeVar("Item")
Made = TypeVar("Made")

HEADLESS = "FUSIONER_HEADLESS"
"""Environment variable that the workbook's runner sets for the kernels it starts: no widgets."""

FRONTENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""Environment variables that JupyterLab, VS Code and Colab set in a kernel that a person works in."""


def bar(what: str, *, total: int | None, done: int = 0, unit: str = "B", quiet: bool = False) -> Any:
    """A progress display with ``update(count)`` and ``close()``, and a context manager; the text goes to stderr.

    A widget in JupyterLab, VS Code and Colab, a bar in a terminal. In executed notebooks, logs and pipes, where each
    state of a bar would be kept, it is a plain line from time to time and one at the end.
    what: what is being worked on. total: the number of items, None if unknown. done: how many of them are done
    already. unit: an item in the singular; "B" is bytes, written as kB, MB or GB. quiet: show nothing.
    """
    if plain() and not quiet:
        return Lines(what, total=total, done=done, unit=unit)
    return tqdm_class()(desc=what, total=total, initial=done, unit=unit, unit_scale=unit == "B", disable=quiet)


def each(items: Iterable[Item], what: str, *, total: int, unit: str, quiet: bool = False) -> Iterator[Item]:
    """Yield ``items`` and show their progress with ``bar``; an item counts as done when the next one is asked for."""
    with bar(what, total=total, unit=unit, quiet=quiet) as shown:
        for item in items:
            yield item
            shown.update()


def ahead(
    work: Callable[[Item], Made], items: Iterable[Item], *, pool: ThreadPoolExecutor, most: int
) -> Iterator[Made]:
    """Yield ``work(item)`` in the order of ``items``; the threads of ``pool`` do the work.

    ``items`` are read as they are needed: at most ``most`` of them are in work or done and not yet yielded, so memory
    does not grow with their number. What has not begun is dropped when the iterator is closed.
    """
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for job in waiting:
            job.cancel()


def headless() -> bool:
    """Whether this process is not a kernel that a person works in, so that widgets are useless.

    True under the workbook's runner, under plain papermill and in scripts; False in JupyterLab, VS Code and Colab.
    """
    return HEADLESS in os.environ or not any(name in os.environ for name in FRONTENDS)


def plain() -> bool:
    """Whether progress is written as plain lines: stderr is neither a terminal nor a person's notebook."""
    return headless() and not sys.stderr.isatty()


def tqdm_class() -> Any:
    """The class of tqdm's bars: widgets in a kernel that a person works in, else text."""
    if headless():  # in papermill's kernels tqdm.auto would make widgets, which a saved notebook shows as dead text
        return tqdm
    from tqdm.auto import tqdm as widgets_or_text  # imports asyncio, and ipywidgets in a kernel

    return widgets_or_text


class Lines:
    """Plain lines on stderr instead of a bar: ``what: 50%, 20 of 40 images, 4.0 images/s, 00:05 gone, 00:05 left``."""

    def __init__(self, what: str, *, total: int | None, done: int, unit: str) -> None:
        self.what, self.total, self.n, self.unit, self.postfix = what, total, done, unit, ""
        self._first = self._last_n = done
        self._start = self._last_time = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Count ``count`` more items as done."""
        self.n += count
        now = time.monotonic()
        if now - self._last_time >= max(PATIENCE, SHARE * (now - self._start)):
            self._write(now)

    def set_postfix(self, *, refresh: bool = False, **values: str) -> None:
        """Put these values at the end of the following lines; ``refresh`` is tqdm's and has no effect."""
        self.postfix = "".join(f", {name} {value}" for name, value in values.items())

    def close(self) -> None:
        """Write the last line, if anything was done since the line before."""
        if self.n != self._last_n:
            self._write(time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, now: float) -> None:
        self._last_time, self._last_n = now, self.n
        seconds = max(now - self._start, 1e-9)
        rate = (self.n - self._first) / seconds
        # Work that was done before, or is over within a second, has no meaningful rate.
        elapsed = f", {self._rate(rate)}/s, {tqdm.format_interval(seconds)} gone" if seconds >= 1 else ""
        if not self.total:
            line = f"{self._amount(self.n)}{elapsed}"
        else:
            line = f"{self.n / self.total:.0%}, {self._amount(self.n, self.total)}{elapsed}"
            if self.n < self.total and elapsed:
                line += f", {tqdm.format_interval((self.total - self.n) / rate)} left"
        print(f"{self.what}: {line}{self.postfix}", file=sys.stderr, flush=True)

    def _amount(self, *counts: int) -> str:
        if self.unit == "B":
            return " of ".join(map(size_text, counts))
        return f"{' of '.join(map(str, counts))} {self.unit}s"

    def _rate(self, rate: float) -> str:
        return size_text(round(rate)) if self.unit == "B" else f"{rate:.1f} {self.unit}s"


def need_room(folder: Path, needed: int, *, what: str) -> None:
    """Raise FusionerError if the disk of ``folder`` has fewer than ``needed`` free bytes; ``what`` needs them."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FusionerError(
            f"{what} needs {size_text(needed)} in {folder}, {size_text(free)} are free: make room or give another root"
        )


def size_text(count: int) -> str:
    """``count`` bytes in decimal units, such as 440 MB or 1.4 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count} B"
