"""Large vocabularies: asked in parts, the same answer to the bit, in memory that the parts bound."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from skimage.data import chelsea

from fusionerlib import FusionerError, Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import build
from fusionerlib.models.base import NAME_CHUNK

SIZE, WIDTH = 64, 40


class Squares:
    """Visual tokens are the pixels of 8-pixel squares through a fixed matrix."""

    name, width, stride, multiple, fingerprint = "squares", WIDTH, 8, 8, "squares-1"

    def __call__(self, images, *, outside=None):
        matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(192, WIDTH))).float()
        pixels = rearrange(images.float() / 255 - 0.5, "b c (h p) (w q) -> b (h w) (c p q)", p=8, q=8)
        tokens = F.normalize(pixels @ matrix, dim=-1)
        return VisualTokens({"main": TokenMap(tokens, (images.shape[-2] // 8, images.shape[-1] // 8), 8, "s")}, "main")


class Seeded:
    """Text tokens are drawn by the number in the name."""

    name, width, space, fingerprint = "seeded", WIDTH, "s", "seeded-1"

    def __call__(self, names, templates):
        drawn = [np.random.default_rng(int(name)).normal(size=WIDTH) for name in names]
        return F.normalize(torch.from_numpy(np.array(drawn)).float(), dim=-1)


def make(preset: str = "modern", **changes) -> Segmenter:
    torch.manual_seed(0)
    own = {"similarity": "cosine", "guidance_channels": 15} if preset == "modern" else {"width": 24, "heads": 2}
    model = build(FusionConfig(preset=preset, **own), visual_width=WIDTH, text_width=WIDTH)
    segmenter = Segmenter(
        model=model,
        visual=Squares(),
        text_cache=TextEmbeddingCache(encoder=Seeded(), templates=["{}"]),
        size=SIZE,
        **changes,
    )
    segmenter.asked = []
    model.register_forward_pre_hook(lambda _, given: segmenter.asked.append(given[1].shape[1]))
    return segmenter


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.fixture
def photo():
    return np.ascontiguousarray(chelsea()[100:190, 120:270])


@pytest.mark.parametrize("stride", [None, 40])
def test_parts_give_the_answer_of_all_names_at_once_to_the_bit(photo, stride, monkeypatch) -> None:
    names = numbered(3 * NAME_CHUNK)
    segmenter = make(stride=stride).set_image(photo)
    parts = segmenter.segment(names)
    assert set(segmenter.asked) == {NAME_CHUNK}
    segmenter.asked.clear()
    monkeypatch.setattr("fusionerlib.models.base.NAME_CHUNK", len(names))
    whole = segmenter.segment(names)
    assert set(segmenter.asked) == {len(names)}
    assert torch.equal(parts.coarse, whole.coarse) and torch.equal(parts.best, whole.best)
    np.testing.assert_array_equal(parts.winner, whole.winner)
    assert len(np.unique(parts.winner)) > 2


def test_a_names_logits_do_not_hang_on_the_list_that_it_stands_in(photo) -> None:
    segmenter = make().set_image(photo)
    few, many = segmenter.segment(numbered(NAME_CHUNK + 7)), segmenter.segment(numbered(2 * NAME_CHUNK + 1)[::-1])
    assert torch.equal(few.coarse, many.coarse.flip(0)[: NAME_CHUNK + 7])
    alone = segmenter.segment(["3"])
    torch.testing.assert_close(alone.coarse[0], few.coarse[3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [None, 40])
@pytest.mark.parametrize("count", [1, NAME_CHUNK, NAME_CHUNK + 1, 5 * NAME_CHUNK - 3])
def test_no_more_than_a_part_is_ever_asked_at_once(photo, stride, count) -> None:
    segmenter = make(stride=stride).set_image(photo)
    found = segmenter.segment(numbered(count))
    assert max(segmenter.asked) == min(count, NAME_CHUNK) and len(found.coarse) == count
    # What grows with the vocabulary is as large as the model's own map, not as the image or the tower's input.
    if stride is None:
        assert found.coarse.shape[1:] == (2 * SIZE // 8, 2 * SIZE // 8)
    assert torch.isfinite(found.coarse).all()


def test_coarse_logits_hold_all_that_the_models_at_the_towers_size_do(photo) -> None:
    square = photo[:SIZE, :SIZE]
    segmenter = make(edges="bilinear").set_image(square)
    found = segmenter.segment(numbered(5))
    tokens = Squares()(torch.from_numpy(square.copy()).permute(2, 0, 1)[None]).main
    with torch.no_grad():
        words = Seeded()(numbered(5), ["{}"])[None]
        expected = segmenter.model(tokens.tokens, words, grid=tokens.grid, size=(SIZE, SIZE))[0]
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)


def test_names_that_attend_to_each_other_are_asked_together(photo) -> None:
    segmenter = make("small").set_image(photo)
    segmenter.segment(numbered(2 * NAME_CHUNK))
    assert segmenter.asked == [2 * NAME_CHUNK]


@pytest.mark.parametrize("stride", [None, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_overflow_are_an_error_and_no_background(photo, stride, value) -> None:
    segmenter = make(stride=stride)

    class Overflowing(Squares):
        def __call__(self, images, *, outside=None):
            tokens = super().__call__(images)
            tokens.main.tokens[:, 3, 0] = value
            return tokens

    segmenter.visual = Overflowing()
    with pytest.raises(FusionerError, match="NaN or infinite"):
        segmenter.set_image(photo).segment(numbered(3))
    [(_, error)] = segmenter.predict([photo], numbered(3))
    assert isinstance(error, FusionerError)
