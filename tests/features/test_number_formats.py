"""Stored numbers are within their documented error, also small ones beside large ones; other values are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionerlib.errors import FusionerError
from fusionerlib.features.number_formats import number_format


def through(name: str, tokens: torch.Tensor) -> torch.Tensor:
    """``tokens`` stored and read."""
    numbers = number_format(name)
    parts = numbers.encode(tokens)
    assert tuple(parts) == numbers.parts
    out = torch.empty(tokens.shape)
    numbers.decode(parts, out)
    return out


def class_tokens(count: int) -> torch.Tensor:
    """The tokens that are hardest to store: 432 channels of unit length, then 1000 probabilities."""
    torch.manual_seed(0)
    seen = torch.nn.functional.normalize(torch.randn(count, 432), dim=-1)
    return torch.cat([seen, (2.5 * torch.randn(count, 1000)).softmax(-1)], dim=-1)


def linear_int8(tokens: np.ndarray) -> np.ndarray:
    """int8 with steps of one size over a whole token, for comparison."""
    scale = np.abs(tokens).max(-1, keepdims=True) / 127
    return np.round(tokens / scale) * scale


def test_half_is_numpys() -> None:
    tokens = class_tokens(3)[None]
    assert (through("float16", tokens).numpy() == tokens.numpy().astype(np.float16).astype(np.float32)).all()


def test_int8_by_hand() -> None:
    # A quarter of the scale has the root 1/2, 63.5 steps; 1/16 has 1/4, 31.75 steps; the next block has its own scale.
    tokens = torch.zeros(1, 66)
    tokens[0, :3] = torch.tensor([2.0, 0.5, -0.125])
    tokens[0, 64:] = torch.tensor([-0.001953125, 0.0])
    parts = number_format("int8").encode(tokens)
    assert parts["tokens"][0, [0, 1, 2, 3, 64, 65]].tolist() == [127, 64, -32, 0, -127, 0]
    assert parts["scales"].tolist() == [[2.0, 0.001953125]]
    back = through("int8", tokens)[0, [0, 1, 2, 3, 64, 65]]
    assert back.tolist() == pytest.approx([2.0, 2 * (64 / 127) ** 2, -2 * (32 / 127) ** 2, 0.0, -0.001953125, 0.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(-7, 2), st.floats(0.3, 6.0), st.integers(0, 2**32 - 1))
def test_int8_error_is_as_stated(dim: int, size: int, tail: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens = (random.standard_normal((2, 3, dim)) ** 2 * random.choice([-1, 1], (2, 3, dim))) * 10.0**size
    tokens = (tokens * random.random((2, 3, dim)) ** tail).astype(np.float32)
    found = through("int8", torch.from_numpy(tokens)).numpy()
    for start in range(0, dim, 64):
        block, back = (values[..., start : start + 64].astype(np.float64) for values in (tokens, found))
        largest = np.abs(block).max(-1, keepdims=True)
        # The scale is stored in half precision: a relative 2^-11, and absolute 2^-25 where that is below normal.
        slack = largest * 2**-10 + 2**-24
        bound = (np.sqrt(np.abs(block) * (largest + slack)) + (largest + slack) / 508) / 127
        assert (np.abs(back - block) <= bound + slack).all()
        assert (back * block >= 0).all()


def test_zeros_stay_zeros() -> None:
    assert not through("int8", torch.zeros(2, 2, 70)).any()
    assert not through("int8", torch.full((1, 70), 1e-9)).any()


def test_mixtures_of_classes_survive_int8() -> None:
    tokens = class_tokens(50)
    words = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(1000, 0.01), 20)).float()

    def chance(stored: torch.Tensor) -> torch.Tensor:
        said = stored[:, 432:]
        return (said / said.sum(-1, keepdim=True) @ words.T).clamp(min=1e-12).log()

    ours = (chance(through("int8", tokens)) - chance(tokens)).abs()
    linear = (chance(torch.from_numpy(linear_int8(tokens.numpy()))) - chance(tokens)).abs()
    assert ours.mean() < 0.01 and ours.max() < 0.2
    assert linear.mean() > 50 * ours.mean()


@pytest.mark.parametrize("name", ["float16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_what_cannot_be_stored_is_said(name: str, value: float) -> None:
    tokens = torch.ones(2, 70)
    tokens[1, 3] = value
    with pytest.raises(FusionerError, match="precision = float32"):
        number_format(name).encode(tokens)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(FusionerError, match=r"'int4'.*'float16' or 'int8'"):
        number_format("int4")
