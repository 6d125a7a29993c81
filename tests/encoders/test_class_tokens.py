"""Patch tokens made from ImageNet's classes, against the classifier taken apart by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.data import chelsea

from fusionerlib.encoders.imagenet import class_embeddings, class_texts, load_classifier, word_bank
from fusionerlib.encoders.registry import load_text, load_visual


@pytest.fixture(scope="module")
def visual():
    return load_visual("packaged", tokens="conse")


@pytest.fixture(scope="module")
def photo():
    return torch.from_numpy(np.array(chelsea()[:288, :448])).permute(2, 0, 1)[None]


def test_the_packaged_embeddings_are_those_of_the_text_encoder() -> None:
    numbers = [0, 207, 281, 999]
    assert class_texts(281)[:2] == ["tabby", "tabby cat"] and class_texts(207)[3].startswith("an English breed")
    torch.testing.assert_close(
        class_embeddings(load_text("packaged"), numbers), word_bank()[numbers], atol=2e-3, rtol=0
    )
    assert word_bank().shape == (1000, 384)


def test_words_are_the_classifiers_answer_at_every_patch(visual, photo) -> None:
    network = load_classifier()
    seen = {}
    handles = [
        network.blocks[number].register_forward_hook(lambda _, __, out, number=number: seen.update({number: out}))
        for number in (4, 6)
    ]
    with torch.no_grad():
        whole = network((photo.float() - 127) / 128)
        [handle.remove() for handle in handles]
        raised = F.interpolate(seen[6], size=seen[4].shape[-2:], mode="bilinear", align_corners=False)
        logits = network.classifier(network.bn2(network.conv_head(raised)).permute(0, 2, 3, 1))
    prior = whole.log_softmax(-1).clamp(min=-12) / 2
    said = (logits / 2 + prior[:, None, None]).softmax(-1) @ word_bank() - word_bank().mean(0)
    tokens = visual(photo)
    assert whole.softmax(-1).argmax() == 285, "the Egyptian cat"
    assert tokens.main.grid == (18, 28) and tokens.main.tokens.shape == (1, 18 * 28, visual.width)
    # The tower makes the joined channels and the words one vector of unit length.
    expected = F.normalize(torch.cat([tokens.maps["joined"].tokens * 2**0.5, said.flatten(1, 2)], dim=-1), dim=-1)
    torch.testing.assert_close(tokens.main.tokens, expected, atol=2e-3, rtol=0)
    words, wanted = tokens.main.tokens[..., -384:], expected[..., -384:]
    assert F.cosine_similarity(words, wanted, dim=-1).min() > 0.999


def test_class_posteriors_are_the_softer_answer_itself(photo) -> None:
    classes, conse = load_visual("packaged", tokens="class_posteriors"), load_visual("packaged", tokens="conse")
    network = load_classifier()
    with torch.no_grad():
        whole = network((photo.float() - 127) / 128)
    tokens = classes(photo)
    said = tokens.main.tokens[..., -1000:]
    said = said / said.sum(-1, keepdim=True)
    assert tokens.main.grid == (18, 28) and classes.width == 1432 and classes.fingerprint != conse.fingerprint
    # Logits / 3 + prior, and logits / 2 + prior mixed into words: the one gives the other.
    prior = whole.log_softmax(-1).clamp(min=-12) / 2
    sharper = ((said.clamp(min=1e-30).log() - prior) * 1.5 + prior).softmax(-1)
    words = F.normalize(sharper @ word_bank() - word_bank().mean(0), dim=-1)
    expected = F.normalize(conse(photo).main.tokens[..., -384:], dim=-1)
    assert (words * expected).sum(-1).min() > 0.999


def test_a_cats_patches_are_nearest_to_its_name(visual, photo) -> None:
    names = ["cat", "dog", "sofa", "bicycle", "aeroplane", "person"]
    words = load_text("packaged")(names, ["{}"])
    said = visual(photo).main.tokens[0, :, -384:].mean(0)
    assert names[int((words @ said).argmax())] == "cat"


def test_the_two_ways_are_two_encoders_for_the_store(visual) -> None:
    joined = load_visual("packaged")
    assert joined.fingerprint != visual.fingerprint and (joined.width, visual.width) == (432, 816)
