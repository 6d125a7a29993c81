import numpy as np
import pytest

from fusionerlib.errors import FusionerError
from fusionerlib.inference.palette import colour, colourise, oklab, palette


def test_starts_with_okabe_and_ito():
    assert palette(3).tolist() == [[230, 159, 0], [86, 180, 233], [0, 158, 115]]


def test_all_colours_differ_and_do_not_depend_on_the_count():
    colours = palette(254)
    assert len({tuple(row) for row in colours.tolist()}) == 254
    np.testing.assert_array_equal(palette(40), colours[:40])
    assert colour(254) == colour(0) == (230, 159, 0)


def test_first_colours_are_far_apart_for_the_colour_blind():
    # Red-green blindness by another simulation than the palette's own (Vienot, Brettel, Mollon 1999, linear RGB).
    deutan = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    unit = palette(16) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4) @ deutan.T
    linear = linear.clip(0, 1)
    seen = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = oklab((seen * 255).round().astype(np.uint8))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(16)
    # A just noticeable difference is about 0.02.
    assert distance.min() > 0.04


def test_oklab_of_known_colours():
    # Ottosson's published values for white and for sRGB red.
    lab = oklab(np.array([[255, 255, 255], [255, 0, 0]], dtype=np.uint8))
    np.testing.assert_allclose(lab, [[1, 0, 0], [0.628, 0.2249, 0.1258]], atol=1e-3)


def test_label_map_as_colours():
    shown = colourise(np.array([[0, 1, 255]]))
    assert shown.tolist() == [[[0, 0, 0], [230, 159, 0], [255, 255, 255]]]


def test_limits_are_named():
    with pytest.raises(FusionerError, match="255 colours"):
        palette(255)
    with pytest.raises(FusionerError, match="labels 0 to 300"):
        colourise(np.array([[0, 300]]))
