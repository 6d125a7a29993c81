"""Edges guided by the image: against a second plain writing, and through the segmenter, its winners and the scores."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from skimage.data import chelsea

from fusionerlib import Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.inference import edges
from fusionerlib.inference.edges import COLOUR, FINER, RADIUS, SPREAD, Guide, lab
from fusionerlib.inference.segmentation import best_names
from fusionerlib.models import build
from fusionerlib.models.base import NAME_CHUNK
from tests.inference.test_segmenter import NAMES, make


def modern(**changes) -> Segmenter:
    torch.manual_seed(0)
    model = build(FusionConfig(preset="modern", similarity="learned", width=24), visual_width=3, text_width=5)
    return make(model=model, **changes)


def plainly(image: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Joint bilateral upsampling place by place; the image has the fine grid's size."""
    rows, columns = coarse.shape
    colours = rgb2lab(image)
    means = colours.reshape(rows, FINER, columns, FINER, 3).mean((1, 3))
    fine = np.zeros((rows * FINER, columns * FINER))
    for y, x in np.ndindex(fine.shape):
        total = weights = 0.0
        for i in range(y // FINER - RADIUS, y // FINER + RADIUS + 1):
            for j in range(x // FINER - RADIUS, x // FINER + RADIUS + 1):
                away = ((y + 0.5) / FINER - 0.5 - i) ** 2 + ((x + 0.5) / FINER - 0.5 - j) ** 2
                cell = min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)
                unlike = ((colours[y, x] - means[cell]) ** 2).sum()
                weight = np.exp(-away / (2 * SPREAD**2) - unlike / (2 * COLOUR**2))
                total, weights = total + weight * coarse[cell], weights + weight
        fine[y, x] = total / weights
    return fine


def test_the_guide_is_joint_bilateral_upsampling() -> None:
    image = chelsea()[40 : 40 + 7 * FINER * 3 : 3, 100 : 100 + 5 * FINER * 3 : 3]
    coarse = np.random.default_rng(0).normal(size=(7, 5)) * 4
    guide = Guide.of(np.ascontiguousarray(image), (7, 5))
    found = guide(torch.tensor(coarse, dtype=torch.float32)[None])[0]
    np.testing.assert_allclose(found.numpy(), plainly(image, coarse), atol=2e-3)
    torch.testing.assert_close(guide.weights.sum(0), torch.ones(FINER, FINER, 7, 5))


def test_lab_is_that_of_another_library() -> None:
    np.testing.assert_allclose(lab(torch.from_numpy(chelsea().copy())).numpy(), rgb2lab(chelsea()), atol=0.05)


@pytest.mark.parametrize("edge", [33, 45, 50])
def test_a_mask_ends_where_the_colours_change(edge: int) -> None:
    image = np.full((80, 80, 3), (40, 90, 60), dtype=np.uint8)
    image[:, edge:] = (180, 170, 200)
    # Cells of 8 pixels; the logit of one that the edge cuts is the mean of both sides, as a tower would mix them.
    sides = torch.where(torch.arange(80) < edge, -2.0, 2.0).expand(80, 80)
    coarse = F.adaptive_avg_pool2d(sides[None], (10, 10))
    coarse = F.avg_pool2d(coarse, 3, 1, 1, count_include_pad=False) - 0.9
    size, guide = (80, 80), Guide.of(image, (10, 10))
    masks = [best_names(coarse, size, guide=given)[0].numpy() > 0 for given in (None, guide)]
    wrong = [(mask != (np.arange(80) >= edge)).mean(axis=1).max() * 80 for mask in masks]
    assert wrong[1] <= 8 / FINER < wrong[0]


def test_a_names_bits_do_not_hang_on_the_other_names() -> None:
    guide, coarse = Guide.of(chelsea(), (9, 11)), torch.randn(70, 9, 11)
    together = guide(coarse)
    for part in (slice(3, 4), slice(7, 13), slice(1, 70)):
        assert torch.equal(together[part], guide(coarse[part]))
    assert together.amax() <= coarse.amax() + 1e-5 and together.amin() >= coarse.amin() - 1e-5


@pytest.mark.parametrize("count", [5, 3 * NAME_CHUNK])
@pytest.mark.parametrize("thresholds", [False, True])
def test_winners_are_those_of_all_names_guided_at_once(count: int, thresholds: bool) -> None:
    torch.manual_seed(count)
    # Smooth maps of unequal height: most names can win nowhere, some only in one corner.
    coarse = F.interpolate(torch.randn(count, 1, 4, 5), size=(20, 25), mode="bicubic")[:, 0] * 3
    coarse += torch.randn(count, 1, 1) * 2
    coarse[1] = coarse[0]
    guide, size = Guide.of(chelsea(), (20, 25)), (130, 190)
    least = torch.rand(count) if thresholds else None
    full = F.interpolate(guide(coarse)[None], size=size, mode="bilinear", align_corners=False)[0]
    clear = torch.ones(size, dtype=torch.bool)
    if least is not None:
        above = full.sigmoid() - least[:, None, None]
        clear, full = (above.abs() > 1e-4).all(dim=0), full.masked_fill(above <= 0, -torch.inf)
    best, winner = best_names(coarse, size, thresholds=least, guide=guide)
    expected, first = full.max(dim=0)
    torch.testing.assert_close(best[clear], expected[clear], atol=1e-4, rtol=0)
    index = torch.from_numpy(winner).long()
    chosen = torch.gather(full, 0, index[None])[0]
    assert ((index == first) | (chosen > expected - 1e-4) | ~clear).all() and len(first.unique()) > 3


def test_names_that_can_not_win_are_not_guided(monkeypatch) -> None:
    asked: list[int] = []
    guide = Guide.of(chelsea(), (20, 25))
    monkeypatch.setattr(Guide, "__call__", lambda self, maps: asked.append(len(maps)) or maps)
    coarse = torch.full((500, 20, 25), -5.0)
    coarse[[3, 490]] = 5 * torch.rand(2, 20, 25)
    coarse[7, :4, :4] = 30
    best_names(coarse, (40, 50), guide=guide)
    assert asked == [3]


def test_edges_suit_the_model_and_can_be_chosen() -> None:
    assert make("fusioner").edges == "bilinear" and modern().edges == "guided"
    photo = chelsea()[:120, :200]
    for made in (make, modern):
        plain, guided = (made(edges=given) for given in ("bilinear", "guided"))
        first = plain.set_image(photo).segment(NAMES)
        second = guided.set_image(photo).segment(NAMES)
        assert torch.equal(first.coarse, second.coarse) and first.guide is None and second.guide is not None
        assert not torch.equal(first.best, second.best)
        assert guided.segment(NAMES[:1]).guide is second.guide  # once an image
        again = guided.set_image(photo[::-1].copy()).segment(NAMES)
        assert again.guide is not second.guide
    with pytest.raises(FusionerError, match="edges = 'sharp': expected one of 'guided', 'bilinear'"):
        make(edges="sharp")


def test_labels_masks_and_logits_of_a_guided_result_agree() -> None:
    found = modern().set_image(chelsea()[:120, :200]).segment(NAMES)
    np.testing.assert_allclose(found.best.numpy(), found.logits.amax(0).numpy(), atol=1e-5)
    by_name = found.at(dict.fromkeys(NAMES, 0.5))
    np.testing.assert_array_equal(by_name.labels, found.at(0.5).labels)
    assert max(row["max"] for row in found.table()) == pytest.approx(float(found.fine.amax().sigmoid()))


def test_fine_grids_stay_as_they_are(monkeypatch) -> None:
    monkeypatch.setattr(edges, "MOST_CELLS", 63)
    assert Guide.of(chelsea(), (8, 8)) is None
    segmenter = modern()
    assert segmenter.set_image(chelsea()).segment(NAMES).guide is None


def test_each_window_is_guided_by_its_own_pixels() -> None:
    photo, segmenter = np.ascontiguousarray(chelsea()[:120, :200]), modern(size=64, stride=48)
    found, total, times = segmenter.set_image(photo).segment(NAMES), torch.zeros(3, 160, 256), torch.zeros(160, 256)
    for top, left in product((0, 48, 96), (0, 48, 96, 144)):
        window = np.zeros((64, 64, 3), np.uint8)
        inside = photo[top : top + 64, left : left + 64]
        window[: inside.shape[0], : inside.shape[1]] = inside
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[: inside.shape[0], : inside.shape[1]] = False
        main = segmenter.visual(torch.from_numpy(window).permute(2, 0, 1)[None], outside=outside[None]).main
        with torch.no_grad():
            coarse = segmenter.model(main.tokens, segmenter.text_tokens(NAMES)[None], grid=(4, 4), size=(8, 8))
        fine = Guide.of(window, (8, 8))(coarse[0])
        total[:, top : top + 64, left : left + 64] += F.interpolate(fine[None], size=(64, 64), mode="bilinear")[0]
        times[top : top + 64, left : left + 64] += 1
    torch.testing.assert_close(found.logits, (total / times)[:, :120, :200], atol=1e-5, rtol=1e-5)
