"""Names known by examples: the closed form against scikit-learn's, independence of names, and what is drawn."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fusionerlib.config import FusionConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models import build
from fusionerlib.models.examples import (
    ADDED,
    EXAMPLE_CHANNELS,
    PRIOR_EXAMPLES,
    ExampleTable,
    Moments,
    coverage,
    example_channels,
    region_token,
)

WIDTH, GRID, SIZE = 12, (4, 5), (32, 40)


def drawn(rng, count, mean):
    mixing = np.random.default_rng(9).normal(size=(WIDTH, WIDTH))
    return torch.from_numpy(mean + rng.normal(size=(count, WIDTH)) @ mixing).float()


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    regions = {name: drawn(rng, count, rng.normal(size=WIDTH) * 3) for name, count in (("cat", 400), ("dog", 300))}
    moments = Moments(WIDTH)
    for tokens in regions.values():
        moments.add(tokens)
    made = ExampleTable(width=WIDTH)
    made.fit(moments, regions)
    for name, tokens in regions.items():
        made.add(name, tokens.sum(0), len(tokens))
    return made, regions


def test_ratios_rank_names_as_a_linear_discriminant_does(table) -> None:
    made, regions = table
    rng = np.random.default_rng(1)
    patches = torch.cat([drawn(rng, 50, tokens.mean(0).numpy()) for tokens in regions.values()])
    tokens = torch.cat(list(regions.values())).numpy()
    names = np.repeat([0, 1], [400, 300])
    other = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5], covariance_estimator=_Shared(made.precision))
    other.fit(tokens, names)
    rows = made.tokens(["cat", "dog"])
    directions, offsets = rows[:, :WIDTH], rows[:, WIDTH]
    ratios = patches @ directions.T + offsets
    expected = other.decision_function(patches.numpy())
    # The table's means are pulled towards the mean of all patches by PRIOR_EXAMPLES regions of some hundreds.
    assert np.corrcoef((ratios[:, 1] - ratios[:, 0]).numpy(), expected)[0, 1] > 0.9999
    assert np.mean((ratios[:, 1] > ratios[:, 0]).numpy() == (expected > 0)) > 0.97


class _Shared:
    """The covariance that the table's precision belongs to, as scikit-learn's estimators hand it over."""

    def __init__(self, precision) -> None:
        self.covariance_ = torch.linalg.inv(precision.double()).numpy()

    def fit(self, tokens):
        return self


def test_precision_and_moments_are_those_of_numpy(table) -> None:
    made, regions = table
    everything = torch.cat(list(regions.values())).double().numpy()
    np.testing.assert_allclose(made.mean, everything.mean(0), atol=1e-4)
    np.testing.assert_allclose(made.covariance, np.cov(everything.T, bias=True), atol=1e-2, rtol=1e-3)
    off = np.concatenate([tokens.double().numpy() - tokens.double().numpy().mean(0) for tokens in regions.values()])
    within = off.T @ off / len(off)
    shrunk = 0.7 * within + 0.3 * np.trace(within) / WIDTH * np.eye(WIDTH)
    np.testing.assert_allclose(made.precision, np.linalg.inv(shrunk), rtol=1e-3, atol=1e-4)


def test_learning_a_name_changes_no_other_and_adds_up(table) -> None:
    made, _ = table
    before = made.tokens(["cat", "dog", "bird"])
    assert not before[2].any()
    rng = np.random.default_rng(2)
    birds = drawn(rng, 6, np.full(WIDTH, 2.0))
    made.add("bird", birds[:2].sum(0), 2)
    two = made.tokens(["bird"])
    made.add("bird", birds[2:].sum(0), 4)
    after = made.tokens(["cat", "dog", "bird"])
    assert torch.equal(after[:2], before[:2])
    assert 0 < two[0, WIDTH + 2] < after[2, WIDTH + 2] < 1
    mean = (birds.sum(0) + PRIOR_EXAMPLES * made.mean) / (6 + PRIOR_EXAMPLES)
    torch.testing.assert_close(after[2, :WIDTH], (mean - made.mean) @ made.precision)
    made.remove("bird")
    assert torch.equal(made.tokens(["cat", "dog", "bird"]), before)
    with pytest.raises(FusionerError, match="'bird' has no examples: names with examples are cat, dog"):
        made.remove("bird")


def test_a_name_without_examples_has_zero_channels(table) -> None:
    made, regions = table
    patches = regions["cat"][None, :20]
    tokens = made.tokens(["bird", "cat"])[None]
    maps = example_channels(patches, tokens, made.mean)
    assert maps.shape == (1, 2, EXAMPLE_CHANNELS, 20) and not maps[:, 0].any()
    assert maps[0, 1, 0].mean() > maps[0, 1, 0].new_tensor(0.2)


@pytest.mark.parametrize("size", [(32, 40), (30, 41), (4, 5)])
def test_coverage_is_the_share_of_pixels_in_a_patch(size) -> None:
    labels = torch.from_numpy(np.random.default_rng(3).integers(0, 4, size=size).astype(np.uint8))
    labels[0, 0] = 255
    shares = coverage(labels, GRID, 3)
    assert shares.shape == (4, *GRID)
    if size == (32, 40):
        own = [(labels.reshape(4, 8, 5, 8) == label).float().mean((1, 3)) for label in range(4)]
        torch.testing.assert_close(shares, torch.stack(own))
    assert float(shares.sum()) <= 20 + 1e-4


def test_the_region_token_weighs_patches_by_their_share() -> None:
    tokens, share = torch.randn(2, 2, 3), torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    torch.testing.assert_close(region_token(tokens, share), (tokens[0, 0] + tokens[0, 1] / 2) / 1.5)


def make(**changes):
    torch.manual_seed(0)
    config = FusionConfig(preset="modern", **{"width": 16, "dropout": 0.0, **changes})
    return build(config, visual_width=20, text_width=8)


def test_a_model_reads_names_with_and_without_examples_and_keeps_them_apart() -> None:
    rng = np.random.default_rng(4)
    patches = torch.from_numpy(np.abs(rng.normal(size=(2, 20, 20)))).float()
    words = torch.from_numpy(np.abs(rng.normal(size=(2, 3, 8)))).float()
    model = make().eval()
    model.update_statistics(patches)
    moments = Moments(WIDTH)
    moments.add(patches[..., :WIDTH].reshape(-1, WIDTH))
    model.examples.fit(moments, {"cat": patches[0, :6, :WIDTH], "dog": patches[1, :6, :WIDTH]})
    torch.nn.init.normal_(model.residual.layers[-1].weight)
    with torch.no_grad():
        text_alone = model(patches, words, grid=GRID, size=SIZE)
        unknown = model(patches, model.with_examples(words, ["cat", "dog", "cow"]), grid=GRID, size=SIZE)
        assert torch.equal(unknown, text_alone)
        model.examples.add("dog", patches[1, :6, :WIDTH].sum(0), 6)
        learnt = model(patches, model.with_examples(words, ["cat", "dog", "cow"]), grid=GRID, size=SIZE)
    assert torch.equal(learnt[:, [0, 2]], unknown[:, [0, 2]])
    assert (learnt[:, 1] - unknown[:, 1]).abs().max() > 1e-3
    assert model.example_names == ("dog",)
    copy = make()
    copy.load_weights(model.state_dict(), model.example_names)
    torch.testing.assert_close(copy.with_examples(words, ["dog"] * 3), model.with_examples(words, ["dog"] * 3))


def test_training_gives_both_logits_and_examples_do_not_change_the_weights_of_the_text() -> None:
    patches, words = torch.rand(2, 20, 20), torch.rand(2, 3, 8)
    model, without = make().train(), make(examples=False).train()
    weights = without.state_dict()
    model.load_state_dict({**model.state_dict(), **weights})
    model.examples.add("dog", patches[0, :6, :WIDTH].sum(0), 6)
    asked = model.with_examples(words, ["dog", "cow", "dog"])
    both = model(patches, asked, grid=GRID, size=SIZE)
    alone = without(patches, words, grid=GRID, size=SIZE)
    assert both.shape == (2, 6, *SIZE) and torch.equal(both[:, :3], alone)
    both.square().mean().backward()
    (alone.square().sum() / both.numel()).backward()
    own = dict(model.named_parameters())
    for name, parameter in without.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad)
    assert own["residual.layers.2.bias"].grad.abs() > 0
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(patches, asked, grid=GRID, size=SIZE), both[:, 3:])


def test_tokens_of_another_width_are_refused() -> None:
    model = make(examples=False)
    with pytest.raises(FusionerError, match="text tokens are 24 wide"):
        model(torch.rand(1, 20, 20), torch.rand(1, 2, 8 + WIDTH + ADDED), grid=GRID, size=SIZE)
