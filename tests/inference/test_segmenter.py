"""The segmenter with tiny encoders handed in, and once with the packaged pair from a checkpoint."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import chelsea

from fusionerlib import Segmenter, checkpoints
from fusionerlib.config import FusionConfig, RunConfig
from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import decide
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.inference.segmentation import best_names
from fusionerlib.inference.whole import LONGEST
from fusionerlib.models import build


class MeanColours:
    """Visual tokens are the mean colours of 16-pixel squares; counts its calls."""

    name, width, stride, multiple, fingerprint = "mean-colours", 3, 16, 32, "mean-colours-1"

    def __init__(self):
        self.seen = []

    def __call__(self, images, *, outside=None):
        self.seen.append(images)
        pooled = F.avg_pool2d(images.float() / 255, 16)
        tokens = rearrange(pooled, "b c h w -> b (h w) c")
        return VisualTokens({"main": TokenMap(tokens, tuple(pooled.shape[-2:]), 16, "colours")}, "main")


class Hashed:
    """Text tokens are seeded by the sentences' hash, in float64; remembers what it was asked to encode."""

    name, width, space, fingerprint = "hashed", 5, "hash", "hashed-1"

    def __init__(self):
        self.asked = []

    def __call__(self, names, templates):
        self.asked.append(list(names))
        seeds = [[hashlib.sha256(one.format(name).encode()).digest()[0] for one in templates] for name in names]
        tokens = [np.mean([np.random.default_rng(s).normal(size=5) for s in row], axis=0) for row in seeds]
        return F.normalize(torch.tensor(np.array(tokens)), dim=-1)


def text_cache(templates=("{}",), **settings):
    return TextEmbeddingCache(encoder=Hashed(), templates=templates, **settings)


def make(kind="fusioner", **changes):
    torch.manual_seed(0)
    config = FusionConfig(preset="small", kind=kind, width=24, heads=2, depth=2)
    model = build(config, visual_width=3, text_width=5)
    return Segmenter(**{"model": model, "visual": MeanColours(), "text_cache": text_cache(), "size": 64, **changes})


@pytest.fixture
def segmenter():
    return make()


@pytest.fixture
def photo():
    return chelsea()[:120, :200]


NAMES = ["cat", "grass", "sky"]


def test_result_has_the_images_size_and_the_order_of_the_names(segmenter, photo):
    found = segmenter.set_image(photo).segment(NAMES)
    assert found.names == ("cat", "grass", "sky")
    assert found.logits.shape == found.probabilities.shape == (3, 120, 200)
    assert found.logits.dtype == torch.float32
    assert found.masks.shape == (3, 120, 200) and found.masks.dtype == bool
    assert found.masks.sum(axis=0).max() == 1
    np.testing.assert_array_equal(found.masks.any(axis=0), found.labels > 0)
    assert len(np.unique(found.labels)) > 2, "a random model that marks one thing only tests nothing"


def test_the_order_of_the_names_only_reorders(segmenter, photo):
    segmenter.set_image(photo)
    one, other = segmenter.segment(NAMES), segmenter.segment(NAMES[::-1])
    torch.testing.assert_close(one.logits, other.logits.flip(0), atol=1e-4, rtol=0)


def test_logits_are_the_models_resized(segmenter, photo):
    found = segmenter.set_image(photo).segment(NAMES)
    small = np.array(Image.fromarray(photo).resize((64, 64), Image.Resampling.BILINEAR))
    tokens = MeanColours()(torch.from_numpy(small).permute(2, 0, 1)[None]).main
    words = Hashed()(NAMES, ["{}"]).float()[None]
    with torch.no_grad():
        coarse = segmenter.model(tokens.tokens, words, grid=(4, 4), size=(64, 64))[0].numpy()
    # Pillow enlarges bilinearly with the same pixel centres.
    expected = [np.asarray(Image.fromarray(one).resize((200, 120), Image.Resampling.BILINEAR)) for one in coarse]
    np.testing.assert_allclose(found.logits.numpy(), np.stack(expected), atol=1e-4)


@pytest.mark.parametrize("tile", [1, 50, 10**9])
def test_masks_are_the_decision_of_the_metrics_however_tiled(segmenter, photo, tile, monkeypatch):
    in_tiles(monkeypatch, tile)
    found = segmenter.set_image(photo).segment([f"name {i}" for i in range(5)], threshold=0.4)
    probabilities = found.logits.double().sigmoid().numpy()
    np.testing.assert_array_equal(found.labels, decide(probabilities, threshold=0.4))


def in_tiles(monkeypatch, side: int) -> None:
    monkeypatch.setattr("fusionerlib.inference.segmentation.TILE_ROWS", side)
    monkeypatch.setattr("fusionerlib.inference.segmentation.TILE_COLUMNS", side)


sides = st.integers(1, 40)


@settings(max_examples=150, deadline=None)
@given(grid=st.tuples(sides, sides), size=st.tuples(sides, st.integers(1, 700)), data=st.data())
def test_winners_are_those_of_all_names_resized_at_once(grid, size, data) -> None:
    count, smooth, some = data.draw(st.tuples(st.integers(4, 9), st.booleans(), st.booleans()))
    torch.manual_seed(grid[0] * 41 + grid[1])
    coarse = 5 * torch.randn(count, *grid)
    if smooth:  # some names can't win in some tiles
        coarse = coarse / 10 + torch.randn(count, 1, 1) * 3
    thresholds = torch.rand(count) if some else None
    full = F.interpolate(coarse[None], size=size, mode="bilinear", align_corners=False)[0]
    clear = torch.ones(size, dtype=torch.bool)
    if thresholds is not None:
        above = full.sigmoid() - thresholds[:, None, None]
        clear = (above.abs() > 1e-4).all(dim=0)
        full = full.masked_fill(above <= 0, -torch.inf)
    best, winner = best_names(coarse, size, thresholds=thresholds)
    expected, first = full.max(dim=0)
    # torch rounds places on the grid to float32, in small and shrunk pictures otherwise than in large ones.
    torch.testing.assert_close(best[clear], expected[clear], atol=1e-4, rtol=0)
    # Names may change places only where they are as good as equal.
    index = torch.from_numpy(winner).long()
    chosen = torch.gather(full, 0, index[None])[0]
    assert ((index == first) | (chosen > expected - 1e-4) | ~clear).all()


def test_a_large_picture_has_the_bits_of_torchs_own_resize():
    torch.manual_seed(0)
    coarse = 3 * torch.randn(6, 40, 30)
    expected, first = F.interpolate(coarse[None], size=(1100, 1300), mode="bilinear", align_corners=False)[0].max(0)
    best, winner = best_names(coarse, (1100, 1300))
    # A processor without fused products rounds once more.
    torch.testing.assert_close(best, expected, atol=4e-6, rtol=0)
    assert (winner != first.numpy()).mean() < 1e-6


@pytest.mark.parametrize("tile", [1, 10**9])
def test_of_equals_the_first_name_wins_across_tiles(tile, monkeypatch):
    in_tiles(monkeypatch, tile)
    best, winner = best_names(torch.tensor([1.0, 2.0, 2.0])[:, None, None].expand(3, 2, 2), (4, 6))
    assert (best == 2).all() and (winner == 1).all()


def test_threshold_can_be_asked_again_without_the_model(segmenter, photo):
    found = segmenter.set_image(photo).segment(NAMES)
    np.testing.assert_array_equal(found.at(0.8).labels, segmenter.segment(NAMES, threshold=0.8).labels)
    assert not found.at(1.0).masks.any()
    assert found.at(0.0).labels.min() > 0
    with pytest.raises(FusionerError, match=r"threshold 1.5 .*0-1"):
        found.at(1.5)
    with pytest.raises(FusionerError, match="threshold"):
        segmenter.segment(NAMES, threshold=-0.1)


@pytest.mark.parametrize("tile", [1, 10**9])
def test_thresholds_by_name_choose_the_best_of_those_above_their_own(segmenter, photo, tile, monkeypatch):
    in_tiles(monkeypatch, tile)
    plain = segmenter.set_image(photo).segment(NAMES)
    # Without the first name's winning pixels another name must take over where it exceeds its own threshold.
    middles = {name: float(plain.probabilities[place].median()) for place, name in enumerate(NAMES)}
    given = {"cat": 1.0, "sky": middles["sky"]}
    found = segmenter.segment(NAMES, threshold=given)
    expected = np.zeros(photo.shape[:2], np.int32)
    probabilities = plain.probabilities.numpy()
    for pixel in np.ndindex(*expected.shape):
        above = [
            (-probabilities[k][pixel], k + 1)
            for k, name in enumerate(NAMES)
            if probabilities[k][pixel] > given.get(name, 0.5)
        ]
        expected[pixel] = min(above)[1] if above else 0
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(plain.at(given).labels, expected)
    assert not (expected == 1).any() and (expected == 3).any()
    same = segmenter.segment(NAMES, threshold=dict.fromkeys(NAMES, 0.4))
    np.testing.assert_array_equal(same.labels, segmenter.segment(NAMES, threshold=0.4).labels)


def test_thresholds_by_name_refuse_what_was_not_asked(segmenter, photo):
    segmenter.set_image(photo)
    with pytest.raises(FusionerError, match=r"threshold of 'cot', which is not asked for: did you mean 'cat'"):
        segmenter.segment(NAMES, threshold={"cot": 0.3})
    with pytest.raises(FusionerError, match=r"threshold 3.0 of 'cat' is outside 0-1"):
        segmenter.segment(NAMES, threshold={"cat": 3.0})


def test_without_background_every_pixel_has_the_largest_name(segmenter, photo):
    found = segmenter.set_image(photo).segment(NAMES, background=False, threshold=1.0)
    np.testing.assert_array_equal(found.labels, found.logits.argmax(0).numpy() + 1)
    assert found.labels.min() > 0 and found.masks.any(0).all()
    assert not found.at(1.0).labels.any()
    np.testing.assert_array_equal(found.at(1.0).at(1.0, background=False).labels, found.labels)


def test_tower_runs_once_an_image_and_words_are_encoded_once(segmenter, photo):
    segmenter.set_image(photo)
    segmenter.segment(["cat", "sky"])
    segmenter.segment(["sky", "tree", "cat"])
    assert len(segmenter.visual.seen) == 1
    assert segmenter.text_cache.encoder.asked == [["cat", "sky"], ["tree"]]
    assert segmenter.text_tokens(["cat"]).dtype == torch.float32
    torch.testing.assert_close(segmenter.text_tokens(["tree", "cat"]), Hashed()(["tree", "cat"], ["{}"]).float())


def test_templates_reach_the_text_encoder(photo):
    segmenter = make(text_cache=text_cache(("a {}.", "the {}.")))
    torch.testing.assert_close(segmenter.text_tokens(["cat"]), Hashed()(["cat"], ["a {}.", "the {}."]).float())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((120, 200), (128, 192)), ((10, 10), (32, 32)), ((500, 3000), (160, LONGEST)), ((33, 4000), (32, LONGEST))],
)
def test_without_a_size_the_proportions_are_kept(shape, expected):
    segmenter = make(size=None).set_image(np.zeros((*shape, 3), np.uint8))
    assert segmenter.visual.seen[0].shape == (1, 3, *expected)
    assert segmenter.segment(["cat"]).masks.shape == (1, *shape)


def test_nothing_is_trained_and_dropout_is_off(segmenter, photo):
    assert not segmenter.model.training
    first, second = (segmenter.set_image(photo).segment(NAMES).logits for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad


def test_attention_is_that_of_the_words_on_patches(segmenter, photo):
    rows = segmenter.set_image(photo).attention(NAMES)
    assert rows.shape == (2, 3, 4, 4)
    total = rows.sum(dim=(2, 3))
    assert ((rows >= 0).all() and (total > 0).all() and (total < 1).all()).item()
    with pytest.raises(FusionerError, match="no attention between text tokens and patches"):
        make("late").set_image(photo).attention(NAMES)


def test_overlay_has_image_and_legend(segmenter, photo):
    found = segmenter.set_image(photo).segment(NAMES)
    picture = found.overlay(opacity=0.0)
    assert picture.width >= 200 and picture.height > 120
    assert found.overlay(legend=False).size == (200, 120)
    blank = np.asarray(found.at(1.0).overlay(legend=False))
    np.testing.assert_array_equal(blank, photo)


def test_packaged_pair_from_a_checkpoint_folder_and_from_a_runs_name(tmp_path, monkeypatch):
    run = RunConfig.flat(width=48, heads=4, depth=1, size=96, templates="photo")
    torch.manual_seed(1)
    model = build(run.fusion, visual_width=432, text_width=384)
    folder = tmp_path / "outputs" / "tiny" / "checkpoint"
    checkpoints.save(folder, model=model, run=run, trained_names=["cat"])
    monkeypatch.chdir(tmp_path)
    loaded = [Segmenter.load(folder), Segmenter.load("tiny")]
    assert loaded[0].size == 96 and loaded[0].text_cache.templates == ("a photo of a {}.",)
    results = [one.set_image(chelsea()).segment(["cat", "sofa"]) for one in loaded]
    assert torch.equal(results[0].logits, results[1].logits)
    assert results[0].logits.shape == (2, 300, 451)
    small = Image.fromarray(chelsea()).resize((96, 96), Image.Resampling.BILINEAR)
    tokens = loaded[0].visual(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]).main
    words = loaded[0].text_cache.encoder(["cat", "sofa"], ["a photo of a {}."])[None]
    with torch.no_grad():
        expected = model.eval()(tokens.tokens, words, grid=tokens.grid, size=(96, 96))[0]
    torch.testing.assert_close(results[0].coarse, expected)
