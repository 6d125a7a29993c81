"""The fast decoder and cosine head against the plain ones of ``models.decoder``."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionerlib.models import decoder
from fusionerlib.models.fast_decoder import (
    FastDecoder,
    NeighbourProducts,
    cosine_logits,
    instance_norm,
    interpolation,
    resized_convolution,
)

SIZES = [((3, 4), (6, 8)), ((3, 4), (7, 5)), ((2, 3), (8, 12)), ((5, 4), (2, 3)), ((1, 1), (2, 2)), ((4, 4), (4, 4))]
GRIDS = [(7, 7), (3, 17), (9, 4), (16, 16), (1, 5)]


def gradients(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return torch.autograd.grad((value * weights).sum(), of)


def both_decoders(scales: tuple[int, ...], *, width: int = 24, inner: int = 16) -> tuple[decoder.Decoder, FastDecoder]:
    torch.manual_seed(3)
    plain = decoder.Decoder(width=width, inner=inner, scales=scales)
    fast = FastDecoder(width=width, inner=inner, scales=scales)
    fast.load_state_dict(plain.state_dict(), strict=True)
    return plain, fast


def windows(grid: tuple[int, int], width: int) -> Tensor:
    """Patches of two images: one varies everywhere, the other is one constant but for a corner of a few patches."""
    torch.manual_seed(4)
    patches = torch.randn(2, grid[0], grid[1], width)
    border = torch.randn(width)
    content = patches[1, : (grid[0] + 2) // 3, : (grid[1] + 2) // 3].clone()
    patches[1] = border
    patches[1, : content.shape[0], : content.shape[1]] = content
    return patches.flatten(1, 2)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("images", [slice(0, 2), slice(1, 2)], ids=["two images", "one"])
@pytest.mark.parametrize("scales", [(2, 4, 8), (2,), (), (2, 3)])
def test_the_fast_decoder_equals_the_plain_one(grid: tuple[int, int], images: slice, scales: tuple[int, ...]) -> None:
    plain, fast = both_decoders(scales)
    patches, text = windows(grid, 24)[images], torch.randn(2, 3, 24)[images]
    size = (grid[0] * 13, grid[1] * 11)

    def found(module: decoder.Decoder, head, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        tokens = patches.to(dtype).requires_grad_()
        features = module.to(dtype)(tokens, grid=grid)
        logits = head(features, text.to(dtype), temperature=0.07, size=size)
        return features, logits, gradients(logits, tokens, *module.parameters())

    exact = found(plain, decoder.cosine_logits, torch.float64)
    features, logits, slopes = found(fast, cosine_logits, torch.float64)
    torch.testing.assert_close(features, exact[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(logits, exact[1], atol=1e-10, rtol=0)
    largest = max(float(slope.abs().max()) for slope in exact[2])
    for slope, expected in zip(slopes, exact[2], strict=True):
        torch.testing.assert_close(slope, expected, atol=1e-10 * largest, rtol=0)
    features, logits, _ = found(fast, cosine_logits, torch.float32)
    torch.testing.assert_close(features.double(), exact[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.double(), exact[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_convolution_after_resizing(old, new) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, *old, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 5, 3, 3), (6,)))
    expected = F.conv2d(decoder.resize(features, new), weight, bias, padding=1)
    found = resized_convolution(features.permute(0, 2, 3, 1), weight, bias, size=new).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, features, weight, bias), gradients(expected, features, weight, bias))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_cosines_with_a_resized_map(old, new, monkeypatch) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 6, *old, dtype=torch.float64, requires_grad=True)
    text = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    unit = F.normalize(F.interpolate(features, size=new, mode="bilinear", align_corners=False), dim=1)
    expected = torch.einsum("bchw,bkc->bkhw", unit, F.normalize(text, dim=-1)) / 0.07
    slopes = gradients(expected, features, text)
    for cached in (1, 2**20):  # row by row, and all rows at once
        monkeypatch.setattr("fusionerlib.models.fast_decoder.CACHED", cached)
        found = cosine_logits(features, text, temperature=0.07, size=new)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, features, text), slopes)
    torch.testing.assert_close(decoder.cosine_logits(features, text, temperature=0.07, size=new), expected)


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
    features, text = torch.randn(1, 16, 6, 6), torch.randn(1, 2, 16)
    exact = cosine_logits(features, text, temperature=0.07, size=(12, 12))
    with torch.autocast("cpu", torch.bfloat16):
        halved = cosine_logits(features.bfloat16(), text.bfloat16(), temperature=0.07, size=(12, 12))
    torch.testing.assert_close(halved.float(), exact, atol=0.15, rtol=0)
    assert halved.dtype == torch.float32


def test_a_whole_step_in_half_precision_is_finite_and_near() -> None:
    _, fast = both_decoders((2, 4))
    patches = windows((6, 5), 24)
    exact = fast(patches, grid=(6, 5))
    with torch.autocast("cpu", torch.bfloat16):
        halved = fast(patches, grid=(6, 5))
    assert halved.dtype == torch.bfloat16
    assert (halved.float() - exact).norm() < 0.05 * exact.norm()
    for slope in torch.autograd.grad(halved.float().square().mean(), list(fast.parameters())):
        assert slope.isfinite().all()


@pytest.mark.parametrize("cached", [1, 2**20])
def test_each_channel_of_each_image_is_normed_by_itself(cached: int, monkeypatch) -> None:
    monkeypatch.setattr("fusionerlib.models.fast_decoder.CACHED", cached)
    torch.manual_seed(5)
    features = (torch.randn(3, 5, 7, 4, dtype=torch.float64) * 3 + 2).requires_grad_()
    expected = F.instance_norm(features.permute(0, 3, 1, 2), eps=1e-5).permute(0, 2, 3, 1)
    torch.testing.assert_close(instance_norm(features), expected)
    torch.testing.assert_close(decoder.instance_norm(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), expected)
    torch.testing.assert_close(gradients(instance_norm(features), features), gradients(expected, features))
    assert torch.autograd.gradcheck(instance_norm, (features[:1, :, :3].detach().requires_grad_(),))


def test_a_nearly_constant_channel_keeps_its_digits() -> None:
    torch.manual_seed(6)
    # 128 x 128 pixels near 10, one row of which differs by 0.05: deviations near the square root of eps.
    features = torch.full((1, 128, 128, 8), 10.0) + torch.linspace(-3, 3, 8)
    features[:, 1] += 0.05 * torch.randn(128, 8)
    features.requires_grad_()
    exact = features.detach().double().requires_grad_()
    expected = decoder.instance_norm(exact.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = instance_norm(features)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
    (slope,), (right,) = gradients(found, features), gradients(expected, exact)
    assert (slope - right).abs().max() < 1e-5 * right.abs().max()
    worse = F.batch_norm(features.permute(0, 3, 1, 2), None, None, training=True, eps=1e-5).permute(0, 2, 3, 1)
    assert (worse - expected).abs().max() > 1e-3, "what this is for"


def test_rows_of_an_interpolation_add_up_to_one() -> None:
    for old, new in ((3, 7), (9, 4), (1, 5)):
        torch.testing.assert_close(interpolation(torch.zeros(()), old, new).sum(1), torch.ones(new))
