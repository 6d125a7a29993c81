"""Sliding windows against the paper's rule written out pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionerlib.errors import FusionerError
from fusionerlib.inference.windows import corners, cut, merge, stride_of


def test_a_photo_of_500_by_375_takes_nine_windows() -> None:
    places = corners(375, 500, window=224, stride=stride_of(224))
    assert stride_of(224) == 149
    assert places == [(top, left) for top in (0, 149, 298) for left in (0, 149, 298)]
    assert corners(224, 224, window=224, stride=149) == corners(10, 200, window=224, stride=149) == [(0, 0)]


def test_the_stride_is_two_thirds_of_a_window_cut_off_to_whole_pixels() -> None:
    for window in range(32, 1025, 32):
        assert stride_of(window) == math.floor(2 * window / 3)
    assert [stride_of(window) for window in (64, 224, 320, 448)] == [42, 149, 213, 298]


sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, window=st.integers(2, 16), data=st.data())
def test_cutting_and_averaging_is_what_a_loop_over_pixels_gives(height: int, width: int, window: int, data) -> None:
    stride = data.draw(st.integers(1, window))
    rng = np.random.default_rng(height * 50 + width)
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    places = corners(height, width, window=window, stride=stride)
    for length, axis in ((height, 0), (width, 1)):
        wanted = max(1, math.ceil((length - window) / stride) + 1)
        assert sorted({place[axis] for place in places}) == [k * stride for k in range(wanted)]
    tiles, outside = cut(torch.from_numpy(image), places, window=window)
    scores = torch.from_numpy(rng.normal(size=(len(places), 2, window, window)).astype(np.float32))
    found = merge(scores, places, names=2, height=height, width=width).numpy()
    total, times = np.zeros((2, height, width)), np.zeros((height, width))
    for number, (top, left) in enumerate(places):
        for y, x in np.ndindex(window, window):
            inside = top + y < height and left + x < width
            assert tiles[number, :, y, x].tolist() == (image[top + y, left + x].tolist() if inside else [0, 0, 0])
            assert bool(outside[number, y, x]) != inside
            if inside:
                total[:, top + y, left + x] += scores[number, :, y, x].numpy()
                times[top + y, left + x] += 1
    assert times.min() > 0
    np.testing.assert_allclose(found, total / times, atol=1e-5)


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_pixels_out_is_refused(stride: int) -> None:
    with pytest.raises(FusionerError, match=f"stride {stride} of windows of 16 pixels: expected 1 to 16"):
        corners(40, 40, window=16, stride=stride)
