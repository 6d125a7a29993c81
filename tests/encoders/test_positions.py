"""Every way of positions against arithmetic of another kind: matrices of weights, Pillow, and plain sines."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.testing import CompileCounter

from fusionerlib.encoders import positions
from fusionerlib.encoders.positions import KEPT, METHODS, PositionedPatches
from tests.encoders.vision_models import sine_cosine

GRIDS = [(5, 9), (9, 5), (3, 4), (8, 8)]


def cubic(distance: float) -> float:
    """The convolution kernel of Keys with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def triangle(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def matrix(old: int, places: list[float], kernel) -> np.ndarray:
    """Rows of weights over ``old`` samples for each place; places beyond the border read the border."""
    weights = np.zeros((len(places), old))
    for row, place in enumerate(places):
        for sample in range(math.floor(place) - 2, math.floor(place) + 4):
            weights[row, min(max(sample, 0), old - 1)] += kernel(place - sample)
    return weights


def by_matrices(table: torch.Tensor, rows: int, columns: int, *, kernel, extra: float = 0.0) -> torch.Tensor:
    old = table.shape[-1]
    down, across = (
        matrix(old, [(index + 0.5) * old / (new + extra) - 0.5 for index in range(new)], kernel)
        for new in (rows, columns)
    )
    return torch.from_numpy(down @ table[0].double().numpy() @ across.T)[None].float()


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    return torch.randn(1, 8, 7, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("method", "kernel", "extra"),
    [("offset_bicubic", cubic, 0.1), ("bicubic", cubic, 0.0), ("bilinear", triangle, 0.0)],
)
def test_interpolation_reads_the_right_places(method, kernel, extra, grid, table) -> None:
    expected = by_matrices(table, *grid, kernel=kernel, extra=extra)
    torch.testing.assert_close(METHODS[method](table, *grid), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_antialiased_bicubic_is_pillows(grid, table) -> None:
    rows, columns = grid
    resized = [
        np.asarray(Image.fromarray(plane.numpy(), mode="F").resize((columns, rows), Image.Resampling.BICUBIC))
        for plane in table[0]
    ]
    found = positions.antialiased_bicubic(table, rows, columns)[0]
    torch.testing.assert_close(found, torch.from_numpy(np.stack(resized)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_cropped_square_puts_corners_on_corners(grid, table) -> None:
    side = max(grid)
    weights = matrix(7, [index * 6 / (side - 1) for index in range(side)], triangle)
    square = weights @ table[0].double().numpy() @ weights.T
    expected = torch.from_numpy(square[:, : grid[0], : grid[1]])[None].float()
    torch.testing.assert_close(positions.cropped_square(table, *grid), expected, atol=1e-5, rtol=1e-4)


def test_the_ways_differ_by_more_than_rounding(table) -> None:
    """If two were the same, the tests of families could not tell them apart."""
    made = {name: method(table, 5, 9) for name, method in METHODS.items()}
    for one in made:
        for other in made:
            assert one == other or (made[one] - made[other]).abs().max() > 1e-2, (one, other)


@pytest.mark.parametrize("grid", GRIDS)
def test_sines_and_cosines_number_by_number(grid) -> None:
    rows, columns = grid
    found = positions.sine_cosine(torch.empty(1, 24, 7, 7), rows, columns)
    expected = sine_cosine(24, rows, columns)[0, 1:]
    torch.testing.assert_close(found[0].flatten(1).T, expected, atol=1e-5, rtol=1e-5)


def patches_of(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.unfold(2, 2, 2).unfold(3, 2, 2).mean((1, -1, -2))[..., None].expand(-1, -1, -1, 8)


class Patches(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return patches_of(pixels).to(pixels.dtype)


def test_own_grid_is_taken_as_it_is_and_another_is_resized(table) -> None:
    positioned = PositionedPatches(Patches(), table=table.flatten(2).transpose(1, 2), method="bicubic")
    for height, width in ((14, 14), (10, 18), (2, 98)):  # the last has as many patches as the first
        pixels = torch.rand(2, 3, height, width)
        grid = table if height == width else positions.bicubic(table, height // 2, width // 2)
        torch.testing.assert_close(positioned(pixels), patches_of(pixels) + grid.permute(0, 2, 3, 1))


def test_a_cast_tower_resizes_in_float32(table) -> None:
    positioned = PositionedPatches(Patches(), table=table.flatten(2).transpose(1, 2), method="bicubic")
    before = positioned.positions(5, 9)
    cast = positioned.to(torch.bfloat16)
    exact = positions.bicubic(table.bfloat16().float(), 5, 9).bfloat16().permute(0, 2, 3, 1)
    assert torch.equal(cast.positions(5, 9), exact) and before.dtype == torch.float32


def test_kept_grids_are_bounded(table) -> None:
    positioned = PositionedPatches(Patches(), table=table.flatten(2).transpose(1, 2), method="bilinear")
    first = positioned.positions(2, 2)
    assert positioned.positions(2, 2) is first
    for rows in range(3, 3 + KEPT):
        positioned.positions(rows, 2)
    assert positioned.positions(2, 2) is not first
    torch.testing.assert_close(positioned.positions(2, 2), first)


def test_compiled_patches_know_a_grid_again(table) -> None:
    positioned = PositionedPatches(Patches(), table=table.flatten(2).transpose(1, 2), method="bilinear")
    counter = CompileCounter()
    compiled = torch.compile(positioned, backend=counter)
    batches = [torch.rand(1, 3, 10, 18), torch.rand(1, 3, 18, 10)]
    for pixels in batches:
        torch.testing.assert_close(compiled(pixels), positioned(pixels))
    made = counter.frame_count
    for pixels in batches:
        compiled(pixels)
    assert counter.frame_count == made > 0
