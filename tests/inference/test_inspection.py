"""Looking inside gives what the model itself uses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusionerlib.config import FusionConfig
from fusionerlib.encoders import registry
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, TextTower, VisualTower
from fusionerlib.encoders.registry import load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.inference.inspection import (
    encode_image,
    encode_photo,
    patch_similarity,
    sample_photo,
    sample_scene,
    similarity,
    text_attention,
)
from fusionerlib.models import build


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
    rows = text_attention(model("fusioner"), tokens, torch.randn(3, 384))
    assert rows.shape == (2, 3, 6, 10)
    assert 0 < rows.sum((-1, -2)).max() < 1  # the rest goes to the words
    with pytest.raises(FusionerError, match="'late' has no attention between text tokens and patches"):
        text_attention(model("late"), tokens, torch.randn(3, 384))


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


def colours(spec: EncoderSpec, options: LoadOptions) -> VisualTower:
    """An encoder whose patch tokens are mean colours, so that words for colours can share their space."""

    class Mean(nn.Module):
        def forward(self, pixels):
            return {"last": F.avg_pool2d(pixels, 16)}

    return VisualTower(Mean(), spec=spec, options=options, mean=(0.0,) * 3, std=(1.0,) * 3, fingerprint="colours")


def colour_words(spec: EncoderSpec, options: LoadOptions) -> TextTower:
    """Sentences about red, green or blue as that colour."""

    class Words(nn.Module):
        def forward(self, sentences):
            return torch.tensor([[float(word in one) for word in ("red", "green", "blue")] for one in sentences])

    return TextTower(Words(), spec=spec, options=options, width=3, fingerprint="colours")


@pytest.fixture
def colour_pair():
    told = {"name": "colours", "family": "test", "space": "rgb", "width": 3, "parameters": 0, "tokens": ("last",)}
    told |= {"pretraining": "none", "licence": "none"}
    rows = [
        EncoderSpec(role="visual", loader=f"{__name__}:colours", stride=16, multiple=16, **told),
        EncoderSpec(role="text", loader=f"{__name__}:colour_words", **told),
    ]
    for row in rows:
        registry.add_encoder(row)
    yield
    for row in rows:
        del registry._specs()[row.role, row.name]


def test_a_photo_under_several_encoders(colour_pair, monkeypatch) -> None:
    monkeypatch.setattr("fusionerlib.encoders.weights.cached", lambda file: None)
    found = encode_photo("coffee", ["packaged", "colours", "dino-vitb16", "nonsense"], ["red", "blue"], height=96)
    assert list(found.maps) == ["packaged", "colours"] and found.maps["packaged"].tokens.shape[-1] == 432
    assert "fusioner fetch dino-vitb16" in found.missing["dino-vitb16"] and "unknown" in found.missing["nonsense"]
    # Only the pair of one space has word-patch cosines, and those are of the patches' own colours.
    assert list(found.scores) == ["colours"]
    photo = sample_photo("coffee", multiple=16, height=96)
    red, _, blue = photo[16:32, 48:64].float().mean((0, 1)).tolist()
    length = photo[16:32, 48:64].float().mean((0, 1)).norm().item()
    assert found.scores["colours"][:, 1, 3].tolist() == pytest.approx([red / length, blue / length], abs=1e-4)
