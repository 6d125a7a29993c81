"""Word maps: names that know nothing of each other, whatever the likeness, and parameters that all learn."""

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


each = pytest.mark.parametrize("likeness", ["cosine", "classes", "learned"])


@each
@pytest.mark.parametrize("presence", [True, False])
def test_no_name_changes_anothers_logit(tokens, likeness, presence) -> None:
    patches, words = tokens
    model = make(likeness=likeness, presence=presence)
    model.follow(patches)
    model.eval()
    with torch.no_grad():
        together = model(patches, words, grid=GRID, size=SIZE)
        parts = [model(patches, part, grid=GRID, size=SIZE) for part in words.split([1, 3, 2], dim=1)]
        reordered = model(patches, words.flip(1), grid=GRID, size=SIZE).flip(1)
    assert together.shape == (3, 6, *SIZE) and together.std() > 1e-3
    torch.testing.assert_close(torch.cat(parts, dim=1), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reordered, together, atol=1e-5, rtol=1e-5)


def test_statistics_follow_training_and_stay_still_else(tokens) -> None:
    patches, words = tokens
    model = make()
    model.follow(patches)
    seen = patches[..., -8:] / patches[..., -8:].sum(-1, keepdim=True)
    torch.testing.assert_close(model.likeness.prior, seen.mean((0, 1)))
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()(patches * 9, words, grid=GRID, size=SIZE)
    assert all(torch.equal(buffer, kept[name]) for name, buffer in model.named_buffers())
    assert set(kept) <= set(model.state_dict())


@each
def test_every_parameter_learns(tokens, likeness) -> None:
    patches, words = tokens
    model = make(likeness=likeness, presence=True).train()
    model(patches, words, grid=GRID, size=SIZE).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert (model.projection is not None) == (likeness == "learned")


def test_a_pair_of_one_space_needs_no_further_channels() -> None:
    model = build(FusionConfig(preset="modern", likeness="cosine"), visual_width=512, text_width=512)
    assert isinstance(model, CostAggregation) and model.context[0].in_channels == 512
    with pytest.raises(
        FusionerError, match=r"432 channels can't hold words of 512: .*'class_posteriors' for the packaged"
    ):
        build(FusionConfig(preset="modern"), visual_width=432, text_width=512)


def test_a_masks_likeness_is_that_of_its_mean_token(tokens) -> None:
    patches, words = tokens
    model = make()
    model.follow(patches)
    alone = model.eval().local_likeness(patches[:, 3:4], words)
    torch.testing.assert_close(alone, model.local_likeness(patches, words)[:, :, 3:4])


def test_presence_moves_all_of_a_names_logits_alike(tokens) -> None:
    patches, words = tokens
    model = make(presence=True, evidence=0.0).eval()
    with torch.no_grad():
        before = model(patches, words, grid=GRID, size=SIZE)
        model.presence.bias += 1.5
        torch.testing.assert_close(model(patches, words, grid=GRID, size=SIZE), before + 1.5)


def test_evidence_stretches_logits_and_moves_no_mask(tokens) -> None:
    patches, words = tokens
    model = make(logit_bias=0.0)
    model.follow(patches)
    plain = make(logit_bias=0.0, evidence=0.0)
    plain.load_state_dict(model.state_dict())
    at_maps_size = (8, 10)
    with torch.no_grad():
        stretched = model.eval()(patches, words, grid=GRID, size=at_maps_size)
        before = plain.eval()(patches, words, grid=GRID, size=at_maps_size)
    factor = stretched / before
    assert torch.equal(stretched > 0, before > 0)
    torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor), atol=1e-3, rtol=1e-3)
    # By hand for one name of one image: the likeness of its patches, weighed by what is painted of each.
    chance = before[1, 2].sigmoid().reshape(4, 2, 5, 2).mean((1, 3))
    local = model.local_likeness(patches, words)[1, 2].reshape(4, 5) * 2
    expected = ((chance * local).sum() / (chance.sum() + 1)).clamp(-3, 3).exp()
    torch.testing.assert_close(factor[1, 2].mean(), expected, atol=1e-3, rtol=1e-3)


def test_it_is_a_small_part_of_the_papers_module() -> None:
    modern = build(FusionConfig(preset="modern"), visual_width=1432, text_width=1000)
    assert modern.trainable()["total"] < 100_000
