"""What long work on files shows and asks for: a bar with its rate, and room on the disk."""

import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fusionerlib.errors import FusionerError


def bar(what: str, *, total: int | None, done: int = 0, unit: str = "B", quiet: bool = False) -> Any:
    """A tqdm bar; bytes are written as kB, MB, ... Away from a terminal it writes a line only every ten seconds."""
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        disable=quiet,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )


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
