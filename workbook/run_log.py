"""What a person sees of a run: one line a finished step, with its page; everything else goes into the run's log."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from fusionerlib.errors import FusionerError
from workbook.report.notebook_pages import write_page

STEPS = {
    "data": ("draw the data set", ""),
    "training": ("train the model", "02_training"),
    "inspection": ("look at frozen features", "01_feature_inspection"),
    "evaluation": ("evaluate the model", "03_evaluation"),
    "ablations": ("train the ablations", "04_ablations"),
    "mosaic4": ("test it on mosaics", "05_mosaic4_robustness"),
    "pages": ("write the report", ""),
}
"""What each rule of the Snakefile does, and the notebook that it executes."""

STEMS = sorted(stem for _, stem in STEPS.values() if stem)

TOTAL = re.compile(r"^total +(\d+)")
FINISHED = re.compile(r"^Finished jobid: \d+ \(Rule: (\w+)\)")
FAILED = re.compile(r"^Error in rule (\w+):")
PROGRESS = re.compile(r"^(?:\w+ \| )?(\S.*: +\d+%, .* left.*)")
"""A plain line of ``fusionerlib.progress``, behind the name of its notebook."""
BETWEEN = 20.0
"""Least number of seconds between two lines of progress within a step."""


class RunLog:
    """Reads the growing log of Snakemake, tells each finished step, and writes the page of its notebook.

    seconds: what the steps take on two cores, by rule, for the time that is left; {} for no estimate.
    tell: prints one line.
    """

    def __init__(self, folder: Path, *, seconds: Mapping[str, float], tell: Callable[[str], None] = print) -> None:
        self.folder, self.seconds, self.tell = folder, seconds, tell
        self.done: list[str] = []
        self.total = 0
        self._began = self._told = time.monotonic()

    def read(self, lines: Iterator[str]) -> None:
        """Take note of the lines that were written since the last call."""
        for line in lines:
            if (match := TOTAL.match(line)) and not self.total:
                self.total = int(match[1]) - 1  # the rule `all` makes nothing
            elif (match := FINISHED.match(line)) and match[1] in STEPS:
                self._finished(match[1])
            elif (match := FAILED.match(line)) and match[1] in STEPS:
                self.tell(f"  failed: {STEPS[match[1]][0]}")
            elif (match := PROGRESS.match(line)) and time.monotonic() - self._told >= BETWEEN:
                self._told = time.monotonic()
                self.tell(f"  {match[1].strip()}")

    def left(self) -> float | None:
        """Seconds until the run ends, from the time that its finished steps took; None where that is not known."""
        ran = [rule for rule in self.done if rule in self.seconds]
        expected = sum(self.seconds[rule] for rule in ran)
        if not expected or self.total != len(STEPS):
            return None
        rest = sum(seconds for rule, seconds in self.seconds.items() if rule not in self.done)
        return (time.monotonic() - self._began) * rest / expected

    def _finished(self, rule: str) -> None:
        self.done.append(rule)
        title, stem = STEPS[rule]
        left = self.left()
        place = f"{len(self.done)} of {max(self.total, len(self.done))}"
        rest = f", {time_text(left)} left" if left and len(self.done) < self.total else ""
        page = self._page(stem) if stem else None
        self.tell(f"{place}{rest}: {title}{f'  {page}' if page else ''}")
        self._told = time.monotonic()

    def _page(self, stem: str) -> Path | None:
        """The page of the notebook ``stem``; None where it has none."""
        page = self.folder / "pages" / f"{stem}.html"
        try:
            write_page(self.folder / "notebooks" / f"{stem}.ipynb", page, stems=STEMS)
        except FusionerError:  # the report says what is wrong with it
            return None
        return page


def new_lines(log: TextIO) -> Iterator[str]:
    """The complete lines that were written into ``log`` since the last call."""
    while True:
        place = log.tell()
        line = log.readline()
        if not line.endswith("\n"):
            log.seek(place)
            return
        yield line.rstrip("\n")


def time_text(seconds: float) -> str:
    """``seconds`` in the largest unit that fits: "40 s" or "3 min"."""
    return f"{max(10, round(seconds, -1)):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
