"""The decoder's short cuts against the long way round: enlarge first, then convolve, normalise and compare."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionerlib.models.decoder import (
    Decoder,
    NeighbourProducts,
    cosine_logits,
    instance_norm,
    interpolation,
    resized_convolution,
)

SIZES = [((3, 4), (6, 8)), ((3, 4), (7, 5)), ((2, 3), (8, 12)), ((5, 4), (2, 3)), ((1, 1), (2, 2)), ((4, 4), (4, 4))]


def enlarged(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def gradients(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return torch.autograd.grad((value * weights).sum(), of)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_convolution_after_resizing(old, new) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, *old, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 5, 3, 3), (6,)))
    expected = F.conv2d(enlarged(features, new), weight, bias, padding=1)
    found = resized_convolution(features.permute(0, 2, 3, 1), weight, bias, size=new).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, features, weight, bias), gradients(expected, features, weight, bias))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_cosines_with_a_resized_map(old, new, monkeypatch) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 6, *old, dtype=torch.float64, requires_grad=True)
    words = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    unit = F.normalize(enlarged(features, new), dim=1)
    expected = torch.einsum("bchw,bkc->bkhw", unit, F.normalize(words, dim=-1)) / 0.07
    slopes = gradients(expected, features, words)
    for cached in (1, 2**20):  # row by row, and all rows at once
        monkeypatch.setattr("fusionerlib.models.decoder.CACHED", cached)
        found = cosine_logits(features, words, temperature=0.07, size=new)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, features, words), slopes)


def test_products_of_neighbours_have_the_gradient_of_finite_differences() -> None:
    features = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(NeighbourProducts.apply, (features,))


def test_features_without_length_give_finite_logits_and_gradients() -> None:
    features = torch.zeros(1, 4, 3, 3, requires_grad=True)
    logits = cosine_logits(features, torch.randn(1, 2, 4), temperature=0.07, size=(6, 6))
    assert torch.equal(logits, torch.zeros(1, 2, 6, 6))
    assert gradients(logits, features)[0].isfinite().all()


def test_half_precision_only_rounds() -> None:
    torch.manual_seed(2)
    features, words = torch.randn(1, 16, 6, 6), torch.randn(1, 2, 16)
    exact = cosine_logits(features, words, temperature=0.07, size=(12, 12))
    with torch.autocast("cpu", torch.bfloat16):
        halved = cosine_logits(features.bfloat16(), words.bfloat16(), temperature=0.07, size=(12, 12))
    torch.testing.assert_close(halved.float(), exact, atol=0.15, rtol=0)
    assert halved.dtype == torch.float32


def test_each_image_is_normed_by_itself() -> None:
    features = torch.randn(3, 4, 5, 7) * 3 + 2
    expected = F.instance_norm(features.permute(0, 3, 1, 2), eps=1e-5).permute(0, 2, 3, 1)
    torch.testing.assert_close(instance_norm(features), expected, atol=1e-5, rtol=1e-5)


def test_the_whole_decoder_the_long_way() -> None:
    torch.manual_seed(3)
    decoder = Decoder(width=6, inner=4, scales=(2, 3)).double()
    patches = torch.randn(2, 12, 6, dtype=torch.float64)
    features = patches.transpose(1, 2).reshape(2, 6, 3, 4)
    for index, convolution in enumerate(decoder.convolutions):
        features = F.relu(F.instance_norm(convolution(features), eps=1e-5))
        if index < 2:
            features = enlarged(features, (3 * (2, 3)[index], 4 * (2, 3)[index]))
    torch.testing.assert_close(decoder(patches, grid=(3, 4)), decoder.last(features))


def test_rows_of_an_interpolation_add_up_to_one() -> None:
    for old, new in ((3, 7), (9, 4), (1, 5)):
        torch.testing.assert_close(interpolation(torch.zeros(()), old, new).sum(1), torch.ones(new))
