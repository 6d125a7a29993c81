"""Cost aggregation: names are independent, whatever the similarity, and all parameters learn."""

import numpy as np
import pytest
import torch

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models import CostAggregation, build

GRID, SIZE = (4, 5), (32, 40)


def make(**changes):
    torch.manual_seed(0)
    config = FusionConfig(preset="modern", **{"width": 16, "dropout": 0.0, **changes})
    return build(config, visual_width=20, text_width=8)


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    patches, words = (torch.from_numpy(np.abs(rng.normal(size=size))).float() for size in ((3, 20, 20), (3, 6, 8)))
    return patches, torch.nn.functional.normalize(words, dim=-1)


each = pytest.mark.parametrize("similarity", ["cosine", "class_posteriors", "learned"])


@each
def test_no_name_changes_anothers_logit(tokens, similarity) -> None:
    patches, words = tokens
    model = make(similarity=similarity)
    model.update_statistics(patches)
    model.eval()
    with torch.no_grad():
        together = model(patches, words, grid=GRID, size=SIZE)
        parts = [model(patches, part, grid=GRID, size=SIZE) for part in words.split([1, 3, 2], dim=1)]
        reordered = model(patches, words.flip(1), grid=GRID, size=SIZE).flip(1)
    assert together.shape == (3, 6, *SIZE) and together.std() > 1e-3
    torch.testing.assert_close(torch.cat(parts, dim=1), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reordered, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_without_a_gradient_are_those_with_one_and_another_name_changes_no_bit(tokens, scale, threads) -> None:
    patches, words = tokens
    model = make(similarity="cosine")
    model.update_statistics(patches)
    model.eval()
    for number, parameter in enumerate(model.parameters()):  # norms that shift and scale each channel
        if parameter.ndim == 1:
            parameter.data += scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    with_gradient = model(patches, words, grid=GRID, size=SIZE)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            without = model(patches, words, grid=GRID, size=SIZE)
            other = model(patches, torch.cat([words[:, 1:2], words[:, 1:]], dim=1), grid=GRID, size=SIZE)
    finally:
        torch.set_num_threads(before)
    off = (without - with_gradient).abs().max() / with_gradient.abs().max()
    assert with_gradient.requires_grad and not without.requires_grad and off < 1e-5, off
    assert torch.equal(without[:, 1:], other[:, 1:]) and not torch.equal(without[:, 0], other[:, 0])


def test_statistics_are_updated_by_training_alone(tokens) -> None:
    patches, words = tokens
    model = make()
    model.update_statistics(patches)
    seen = patches[..., -8:] / patches[..., -8:].sum(-1, keepdim=True)
    torch.testing.assert_close(model.statistics.prior, seen.mean((0, 1)))
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()(patches * 9, words, grid=GRID, size=SIZE)
    assert all(torch.equal(buffer, kept[name]) for name, buffer in model.named_buffers())
    assert set(kept) <= set(model.state_dict())


@each
def test_every_parameter_learns(tokens, similarity) -> None:
    patches, words = tokens
    model = make(similarity=similarity).train()
    model.examples.add("cat", patches[0, :, : model.examples.width].sum(0), 20)
    torch.nn.init.normal_(model.residual.layers[-1].weight)  # zero at first: the layers before it learn a step later
    asked = model.with_examples(words, ["cat", *"abcde"])
    model(patches, asked, grid=GRID, size=SIZE).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert (model.projection is not None) == (similarity == "learned")


def test_a_pair_of_one_space_needs_no_further_channels() -> None:
    model = build(FusionConfig(preset="modern", similarity="cosine"), visual_width=512, text_width=512)
    assert isinstance(model, CostAggregation) and model.guidance[0].in_channels == 512
    with pytest.raises(
        FusionerError,
        match=r"432 channels can't end in the 512 channels of the text tokens: .*'class_posteriors' for the packaged",
    ):
        build(FusionConfig(preset="modern"), visual_width=432, text_width=512)


def test_a_masks_similarity_is_that_of_its_mean_token(tokens) -> None:
    patches, words = tokens
    model = make()
    model.update_statistics(patches)
    alone = model.eval().patch_similarity(patches[:, 3:4], words)
    torch.testing.assert_close(alone, model.patch_similarity(patches, words)[:, :, 3:4])


def test_confidence_rescaling_scales_logits_and_moves_no_mask(tokens) -> None:
    patches, words = tokens
    model = make(logit_bias=0.0)
    model.update_statistics(patches)
    plain = make(logit_bias=0.0, confidence_rescaling=0.0)
    plain.load_state_dict(model.state_dict())
    at_maps_size = (8, 10)
    with torch.no_grad():
        stretched = model.eval()(patches, words, grid=GRID, size=at_maps_size)
        before = plain.eval()(patches, words, grid=GRID, size=at_maps_size)
    # Positive logits are multiplied by the factor, negative ones divided.
    factor = (stretched / before).pow(before.sign())
    assert torch.equal(stretched > 0, before > 0)
    torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor), atol=1e-3, rtol=1e-3)
    # By hand for one name of one image: the similarity of its patches, weighed by their probability.
    chance = before[1, 2].sigmoid().reshape(4, 2, 5, 2).mean((1, 3))
    local = model.patch_similarity(patches, words)[1, 2].reshape(4, 5) * 2
    expected = ((chance * local).sum() / (chance.sum() + 1)).clamp(-3, 3).exp()
    torch.testing.assert_close(factor[1, 2].mean(), expected, atol=1e-3, rtol=1e-3)


def test_it_is_a_small_part_of_the_papers_module() -> None:
    modern = build(FusionConfig(preset="modern"), visual_width=1432, text_width=1000)
    assert modern.trainable()["total"] < 105_000
