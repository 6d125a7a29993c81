"""Relabelling and scores, checked on a model whose answers are known by hand."""

import numpy as np
import pytest
import torch

from fusionerlib import Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.datasets.scene import labels_for
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.evaluation.queries import Query, present_queries
from fusionerlib.evaluation.scoring import evaluate, predict
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import build
from fusionerlib.models.base import SegmentationModel
from tests.shapes import Shapes

NAMES = ["red box", "green box", "blue box", "yellow box"]


@pytest.fixture(scope="module")
def text_cache():
    return TextEmbeddingCache(encoder=load_text("packaged"), templates=["{}"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return FeatureStore(tmp_path_factory.mktemp("store"), encoder=load_visual("packaged")).add(Shapes(9), quiet=True)


class Favourite(SegmentationModel):
    """Paints the whole image with one name: its logit is 4 everywhere, any other's -4."""

    def __init__(self, text_cache: TextEmbeddingCache, name: str) -> None:
        super().__init__(FusionConfig(preset="small", width=12, heads=2), visual_width=432, text_width=384)
        self.token = text_cache.tokens([name])[0]

    def forward(self, patch_tokens, text_tokens, *, grid, size, names_mask=None):
        mine = torch.isclose(text_tokens, self.token, atol=1e-5).all(-1)
        return torch.where(mine, 4.0, -4.0)[:, :, None, None].expand(-1, -1, *size)


def test_a_model_that_paints_one_name_everywhere(scenes, text_cache) -> None:
    result = evaluate(Favourite(text_cache, "red box"), scenes, text_cache, present_queries(scenes), quiet=True)
    inside, asked = 0, 0
    for index in range(len(scenes)):
        if "red box" in scenes.names(index):
            labels = scenes[index].labels.numpy()
            inside += int((labels == scenes.names(index).index("red box") + 1).sum())
            asked += int((labels != 255).sum())
    by_name = {row["name"]: row["iou"] for row in result.counts.table()}
    assert by_name["red box"] == pytest.approx(inside / asked)
    assert by_name["green box"] == 0
    assert result.figures()["scenes"] == 9
    best, worst = result.extremes(1)
    assert "red box" in best.names and dict(result.scores)[worst] == 0


def test_absent_names_are_no_classes_but_cost_their_pixels(scenes, text_cache) -> None:
    queries = [Query(1, ("yellow box", *scenes.names(1)))]
    result = evaluate(Favourite(text_cache, "yellow box"), scenes, text_cache, queries, quiet=True)
    assert [row["name"] for row in result.counts.table()] == list(scenes.names(1))
    assert result.counts.miou == 0


def test_lists_of_different_length_share_a_batch(scenes, text_cache) -> None:
    queries = [Query(0, ("red box",)), Query(1, tuple(NAMES))]
    for query, probabilities, target in predict(
        Favourite(text_cache, "red box"), scenes, text_cache, queries, quiet=True
    ):
        assert probabilities.shape == (len(query.names), 64, 64)
        assert set(np.unique(target)) <= {0, 255, *range(1, len(query.names) + 1)}


@pytest.mark.parametrize("preset", ["small", "modern"])
def test_guided_scores_are_those_of_the_segmenters_masks(scenes, text_cache, preset) -> None:
    torch.manual_seed(0)
    visual, changes = scenes.store.encoder, {"similarity": "learned"} if preset == "modern" else {}
    model = build(FusionConfig(preset=preset, width=24, heads=2, **changes), visual_width=432, text_width=384).eval()
    segmenter = Segmenter(model=model, visual=visual, text_cache=text_cache, size=64, edges="guided")
    queries = [Query(0, tuple(NAMES)), Query(1, ("red box",)), Query(0, ("blue box",))]
    plain = list(predict(model, scenes, text_cache, queries, quiet=True))
    for images in (None, Shapes(9)):
        guided = list(predict(model, scenes, text_cache, queries, images=images, quiet=True))
        for (query, found, target), (_, before, same) in zip(guided, plain, strict=True):
            np.testing.assert_array_equal(target, same)
            expected = segmenter.set_image(Shapes(9)[query.scene].image).segment(query.names).probabilities.numpy()
            # Stored tokens are rounded to float16.
            assert np.allclose(found, before if images is None else expected, atol=0.01)
            assert images is None or np.abs(found - before).max() > 0.001


def test_labels_by_other_names() -> None:
    labels = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    assert labels_for(labels, ("cat", "dog"), ("cow", "dog")).tolist() == [[0, 0, 2, 255]]
