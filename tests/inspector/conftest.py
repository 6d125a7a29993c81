"""A segmenter of real, tiny encoders with random weights, and photos and labels to inspect with it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.data import chelsea, coffee

from fusionerlib import Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.encoders.prompts import templates
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.inspector import InspectorState, panels
from fusionerlib.inspector.state import PANELS
from fusionerlib.models import build

NAMES = ("cat", "grass", "sky")
MakeSegmenter = Callable[..., Segmenter]


@pytest.fixture(scope="session")
def make_segmenter() -> MakeSegmenter:
    """The packaged encoders under a small fusion of random weights: ``kind``, and what Segmenter takes."""
    visual, text = load_visual("packaged"), load_text("packaged")
    text_cache = TextEmbeddingCache(encoder=text, templates=templates("photo"))

    def make(kind: str = "fusioner", **settings: object) -> Segmenter:
        torch.manual_seed(0)
        # Without a bias the random logits lie round 0, and every threshold decides something.
        config = FusionConfig(preset="small", kind=kind, width=24, heads=2, depth=2, logit_bias=0.0)
        model = build(config, visual_width=visual.width, text_width=text.width)
        return Segmenter(**{"model": model, "visual": visual, "text_cache": text_cache, "size": 96, **settings})

    return make


@pytest.fixture
def segmenter(make_segmenter: MakeSegmenter) -> Segmenter:
    return make_segmenter()


@pytest.fixture
def photo() -> np.ndarray:
    return chelsea()[:120, :200]


@pytest.fixture
def labels() -> np.ndarray:
    """Left half "cat", a strip "dog" that nobody asks for, a corner not judged."""
    found = np.zeros((120, 200), dtype=np.uint8)
    found[:, :100], found[:, 150:170], found[:20, 180:] = 1, 2, 255
    return found


@pytest.fixture
def state(segmenter, photo):
    return InspectorState(segmenter, [photo, coffee()[::4, ::4]], names=NAMES, threshold=0.3)


def pictures(state):
    return {key: panels.draw_panel(state, key)[0] for key in PANELS}


def changed(before, after):
    return {key for key in PANELS if before[key].shape != after[key].shape or (before[key] != after[key]).any()}
