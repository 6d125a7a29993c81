"""What takes disk in a clone and can be made again: listed with its size, and deleted by name."""

import shutil
from pathlib import Path

from fusionerlib.errors import FusionerError, nearest
from fusionerlib.files import exclusive

PARTS = {
    "features": (["data/features"], "frozen features; the next training computes them again, in minutes to hours"),
    "drawings": (["data/openmoji", "data/openmoji-smoke"], "drawn scenes; the same seed draws the same bytes again"),
    "training": (["outputs/*/training"], "running checkpoints of runs; a finished run's checkpoint stays"),
    "docs": (["outputs/docs", "outputs/rendered", "outputs/quickstart"], "pages that `make` writes again"),
}
"""By name: the folders, and what they hold. Never data sets of others, final checkpoints, records and reports."""


def sizes(clone: Path) -> dict[str, tuple[list[Path], int]]:
    """For each of ``PARTS`` the folders that are there, and their bytes."""
    found = {}
    for name, (patterns, _) in PARTS.items():
        folders = [folder for pattern in patterns for folder in sorted(clone.glob(pattern)) if folder.is_dir()]
        own = [folder for folder in folders if not folder.is_symlink()]
        files = [file for folder in own for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        found[name] = folders, sum(file.stat().st_size for file in files)
    return found


def remove(names: list[str], *, clone: Path) -> int:
    """Delete the folders of these parts; returns how many bytes that freed.

    Raises FusionerError for an unknown name, and while a run of the clone goes on.
    """
    for name in names:
        if name not in PARTS:
            raise FusionerError(f"nothing is called {name!r}: {nearest(name, list(PARTS))}")
    found, freed = sizes(clone), 0
    for lock in sorted(clone.glob("outputs/*/.run.lock")):
        with exclusive(lock, f"a run in {lock.parent}"):
            pass
    for name in names:
        folders, size = found[name]
        for folder in folders:
            # A link is taken away, what it points at is not ours.
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        freed += size
    return freed
