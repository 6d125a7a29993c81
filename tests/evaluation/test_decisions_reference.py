"""Decisions, tiles and controls against a second implementation that goes pixel by pixel."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusionerlib.evaluation import metrics
from fusionerlib.evaluation.mosaics import tiles_won
from tests.evaluation.test_metrics_reference import cases


@st.composite
def probability_maps(draw):
    """Eighths, so that ties are frequent and sums exact, for ``names`` on a mosaic of ``grid`` x ``grid`` tiles."""
    grid = draw(st.integers(1, 3))
    height, width = (grid * draw(st.integers(1, 3)) for _ in range(2))
    eighths = draw(hnp.arrays(np.int64, (grid * grid, height, width), elements=st.integers(0, 8)))
    return grid, (eighths / 8).astype(draw(st.sampled_from([np.float32, np.float64])))


@cases
@given(probability_maps(), st.integers(0, 8), st.integers(0, 9))
def test_decisions_pixel_by_pixel(maps, eighths, names):
    probabilities, threshold = maps[1][:names], eighths / 8
    labels = metrics.decide(probabilities, threshold=threshold)
    assert labels.shape == probabilities.shape[1:]
    for y, x in np.ndindex(labels.shape):
        best, expected = threshold, 0
        for k in range(len(probabilities)):
            if probabilities[k, y, x] > best:
                best, expected = probabilities[k, y, x], k + 1
        assert labels[y, x] == expected


@cases
@given(probability_maps(), st.randoms(use_true_random=False))
def test_tiles_won_pixel_by_pixel(maps, random):
    grid, probabilities = maps
    side = min(probabilities.shape[1:])
    probabilities = probabilities[:, :side, :side]
    tile_of_name = random.sample(range(grid * grid), grid * grid)
    own = [tile_of_name.index(tile) for tile in range(grid * grid)]
    won = tiles_won(probabilities, grid=grid, own=own)
    tall, wide = probabilities.shape[1] // grid, probabilities.shape[2] // grid
    for tile in range(grid * grid):
        top, left = tile // grid * tall, tile % grid * wide
        places = [(top + y, left + x) for y, x in np.ndindex(tall, wide)]
        sums = [math.fsum(one[at].item() for at in places) for one in probabilities]
        own = sums.pop(tile_of_name.index(tile))
        assert won[tile] == all(own > other for other in sums)


@cases
@given(st.integers(2, 5), hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), st.data())
def test_controls_pixel_by_pixel(names, shape, data):
    kind = data.draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    labels = data.draw(hnp.arrays(kind, shape, elements=st.integers(0, names)))
    moved, everywhere = metrics.permuted(labels, names=names), metrics.object_only(labels, names=names)
    circle = dict(zip(range(1, names + 1), [*range(2, names + 1), 1], strict=True)) | {0: 0}
    for place in np.ndindex(shape):
        assert moved[place] == circle[int(labels[place])]
        assert everywhere[(slice(None), *place)].tolist() == [labels[place] != 0] * names
    assert moved.dtype == labels.dtype
