"""Looking inside gives what the model itself uses."""

import pytest
import torch

from fusionerlib.config import FusionConfig
from fusionerlib.encoders.registry import load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.fusion import build
from fusionerlib.inspection import (
    encode_image,
    patch_similarity,
    sample_photo,
    sample_scene,
    similarity,
    word_attention,
)


@pytest.fixture(scope="module")
def tokens():
    image = sample_photo("chelsea", multiple=32, height=96)
    assert image.shape == (96, 160, 3) and image.dtype == torch.uint8
    return encode_image(load_visual("packaged"), image)


def model(kind: str):
    torch.manual_seed(0)
    config = FusionConfig(preset="small", kind=kind, width=24, heads=2, depth=2)
    return build(config, visual_width=432, text_width=384).eval()


def test_similarity_is_the_heads_cosine(tokens) -> None:
    early, words = model("fusioner"), torch.randn(3, 384)
    cosine = similarity(early, tokens, words)
    logits = early(tokens.main.tokens, words[None], grid=tokens.main.grid, size=(12, 20))
    torch.testing.assert_close(cosine, (logits[0] - early.bias) * 0.07)


def test_attention_is_per_layer_and_name(tokens) -> None:
    rows = word_attention(model("fusioner"), tokens, torch.randn(3, 384))
    assert rows.shape == (2, 3, 6, 10)
    assert 0 < rows.sum((-1, -2)).max() < 1  # the rest goes to the words
    with pytest.raises(FusionerError, match="'late' has no attention between words and patches"):
        word_attention(model("late"), tokens, torch.randn(3, 384))


def test_a_patch_is_most_like_itself(tokens) -> None:
    scores = patch_similarity(tokens.main, row=2, column=7)
    assert int(scores.argmax()) == 2 * 10 + 7 and scores.max() == pytest.approx(1.0, abs=1e-5)


def test_sample_scene_is_a_mosaic_of_four_names() -> None:
    scene = sample_scene(size=96)
    assert scene.names == ("penguin", "blue bicycle", "mushroom", "pink elephant")
    for place in range(4):
        rows, columns = (scene.labels == place + 1).nonzero()
        assert len(rows) and set(rows // 48) == {place // 2} and set(columns // 48) == {place % 2}


def test_unknown_photo_is_told() -> None:
    with pytest.raises(FusionerError, match="no sample photo 'nothing'"):
        sample_photo("nothing", multiple=32)
    with pytest.raises(FusionerError, match="'camera' is no colour photo"):
        sample_photo("camera", multiple=32)
