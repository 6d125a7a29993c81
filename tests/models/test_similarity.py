"""Similarity statistics and cost channels against the same sums in numpy."""

import numpy as np
import pytest
import torch

from fusionerlib.models.cost_aggregation import ClassPosteriorSimilarity, CosineSimilarity


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(values):
    return torch.nn.functional.normalize(torch.from_numpy(values).float(), dim=-1)


def test_products_are_standardised_by_what_was_seen(rng) -> None:
    patches, words = torch.from_numpy(rng.normal(size=(3, 20, 8))).float(), unit(rng.normal(size=(3, 6, 8)))
    statistics = CosineSimilarity(8)
    statistics.update(patches)
    flat = patches.reshape(-1, 8).numpy().astype(np.float64)
    np.testing.assert_allclose(statistics.mean, flat.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics.covariance, np.cov(flat.T, bias=True), atol=1e-5)
    costs = statistics.cost_channels(patches, words)
    for name in range(6):
        products = flat @ words[0, name].numpy()
        expected = (products - products.mean()) / products.std() / 2
        np.testing.assert_allclose(costs[0, name, 0], expected[:20], atol=1e-4)
        pooled = flat.reshape(3, 20, 8).mean(1) @ words[0, name].numpy()
        np.testing.assert_allclose(costs[0, name, 1], (pooled - pooled.mean())[0] / pooled.std() / 2, atol=1e-4)
        assert costs[0, name, 2, 0] == costs[0, name, 0].max()  # a twentieth of 20 patches is one
        cosines = flat[:20] @ words[0, name].numpy() / np.linalg.norm(flat[:20], axis=1)
        np.testing.assert_allclose(costs[0, name, 3], 4 * cosines, atol=1e-4)


def test_odds_are_chances_of_one_class_against_the_average_patch(rng) -> None:
    seen, asked = rng.dirichlet(np.full(12, 0.3), size=(3, 20)), rng.dirichlet(np.full(12, 0.3), size=(3, 4))
    statistics = ClassPosteriorSimilarity(12)
    statistics.update(unit(seen))
    np.testing.assert_allclose(statistics.prior, seen.mean((0, 1)), atol=1e-6)
    costs = statistics.cost_channels(unit(seen), unit(asked)).numpy()
    usual = seen.mean((0, 1))
    for image in range(3):
        for name in range(4):
            chance = seen[image] @ asked[image, name]
            odds = chance / (usual @ asked[image, name])
            np.testing.assert_allclose(costs[image, name, 0], np.log(odds + 0.01) / 2, atol=1e-4)
            np.testing.assert_allclose(costs[image, name, 1], np.log(odds.mean() + 0.01) / 2, atol=1e-4)
            np.testing.assert_allclose(costs[image, name, 2], np.log(odds.max() + 0.01) / 2, atol=1e-4)
            np.testing.assert_allclose(costs[image, name, 3], (np.log(chance + 1e-4) / 2 + 2) / 2, atol=1e-4)


def test_a_name_that_only_pads_gives_finite_cost_channels() -> None:
    patches = torch.full((1, 4, 5), 0.2)
    for statistics in (ClassPosteriorSimilarity(5), CosineSimilarity(5)):
        assert torch.isfinite(statistics.cost_channels(patches, torch.zeros(1, 2, 5))).all()


def test_statistics_are_averages_at_first_and_then_exponential(rng) -> None:
    batches = [unit(rng.dirichlet(np.ones(6), size=(2, 10))) for _ in range(60)]
    statistics = ClassPosteriorSimilarity(6)
    means = []
    for batch in batches:
        statistics.update(batch)
        means.append((batch / batch.sum(-1, keepdim=True)).mean((0, 1)))
        if len(means) <= 50:
            torch.testing.assert_close(statistics.prior, torch.stack(means).mean(0), atol=1e-5, rtol=0)
    before = torch.stack(means[:59])
    weights = torch.tensor([1 / 50 * 0.98**9] * 50 + [0.02 * 0.98 ** (58 - place) for place in range(50, 59)])
    expected = 0.98 * (weights[:, None] * before).sum(0) + 0.02 * means[-1]
    torch.testing.assert_close(statistics.prior, expected, atol=1e-5, rtol=0)
