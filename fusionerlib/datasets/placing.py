"""Verified files get their place: by a new name, or by a link to where they are."""

from pathlib import Path

from fusionerlib.errors import FusionerError


def move(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``; into a folder that is there its entries are moved one by one."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            move(entry, target / entry.name)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def link(place: Path, target: Path) -> None:
    """Make ``target`` a link to ``place``. Raises FusionerError where something else has its name."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        raise FusionerError(f"{target} is in the way of a link to {place}: move it away, or give another root")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(place)
