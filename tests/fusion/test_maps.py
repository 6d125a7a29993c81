"""Word maps: names that know nothing of each other, and statistics that are what numpy counts."""

import numpy as np
import pytest
import torch

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.fusion import WordMaps, build

GRID, SIZE = (4, 5), (32, 40)


def make(**changes):
    torch.manual_seed(0)
    config = FusionConfig(preset="modern", **{"width": 16, "dropout": 0.0, **changes})
    return build(config, visual_width=20, text_width=8)


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    patches, words = rng.normal(size=(3, 20, 20)), rng.normal(size=(3, 6, 8))
    return torch.from_numpy(patches).float(), torch.nn.functional.normalize(torch.from_numpy(words).float(), dim=-1)


@pytest.mark.parametrize("aligned", [True, False])
def test_no_name_changes_anothers_logit(tokens, aligned) -> None:
    patches, words = tokens
    model = make(aligned=aligned)
    model.train()(patches, words, grid=GRID, size=SIZE)
    model.eval()
    with torch.no_grad():
        together = model(patches, words, grid=GRID, size=SIZE)
        parts = [model(patches, part, grid=GRID, size=SIZE) for part in words.split([1, 3, 2], dim=1)]
        reordered = model(patches, words.flip(1), grid=GRID, size=SIZE).flip(1)
    assert together.shape == (3, 6, *SIZE) and together.std() > 1e-3
    torch.testing.assert_close(torch.cat(parts, dim=1), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reordered, together, atol=1e-5, rtol=1e-5)


def test_likenesses_are_standardised_by_what_was_seen(tokens) -> None:
    patches, words = tokens
    model = make()
    model.train()(patches, words, grid=GRID, size=SIZE)
    flat = patches[..., -8:].reshape(-1, 8).numpy().astype(np.float64)
    np.testing.assert_allclose(model.mean, flat.mean(0), atol=1e-5)
    np.testing.assert_allclose(model.covariance, np.cov(flat.T, bias=True), atol=1e-5)
    clues = model._clues(patches[..., -8:], words)
    for name in range(6):
        products = flat @ words[0, name].numpy()
        expected = (products - products.mean()) / products.std() / 2
        np.testing.assert_allclose(clues[0, name, 0], expected[:20], atol=1e-4)
        pooled = flat.reshape(3, 20, 8).mean(1) @ words[0, name].numpy()
        np.testing.assert_allclose(clues[0, name, 1], (pooled - pooled.mean())[0] / pooled.std() / 2, atol=1e-4)
        assert clues[0, name, 2, 0] == clues[0, name, 0].max()  # a twentieth of 20 patches is one


def test_statistics_follow_training_and_stay_still_else(tokens) -> None:
    patches, words = tokens
    model = make()
    halves = patches[:1], patches[1:]
    for half in halves:
        model.train()(half, words[: len(half)], grid=GRID, size=SIZE)
    expected = (halves[0][..., -8:].flatten(0, 1).mean(0) + halves[1][..., -8:].flatten(0, 1).mean(0)) / 2
    torch.testing.assert_close(model.mean, expected)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()(patches * 9, words, grid=GRID, size=SIZE)
    assert all(torch.equal(buffer, kept[name]) for name, buffer in model.named_buffers())
    assert set(kept) <= set(model.state_dict())


@pytest.mark.parametrize("aligned", [True, False])
def test_every_parameter_learns(tokens, aligned) -> None:
    patches, words = tokens
    model = make(aligned=aligned).train()
    model(patches, words, grid=GRID, size=SIZE).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert (model.projection is None) == aligned


def test_a_pair_of_one_space_needs_no_further_channels() -> None:
    model = build(FusionConfig(preset="modern"), visual_width=512, text_width=512)
    assert isinstance(model, WordMaps) and model.context[0].in_channels == 512
    with pytest.raises(FusionerError, match=r"432 channels can't hold words of 512: .*visual_tokens = 'worded'"):
        build(FusionConfig(preset="modern"), visual_width=432, text_width=512)


def test_it_is_a_small_part_of_the_papers_module() -> None:
    modern = build(FusionConfig(preset="modern"), visual_width=816, text_width=384)
    assert modern.trainable()["total"] < 100_000
