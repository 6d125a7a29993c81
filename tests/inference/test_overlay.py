import numpy as np
import pytest
from PIL import Image, ImageFont
from skimage.data import chelsea

from fusionerlib.errors import FusionerError
from fusionerlib.inference.overlay import legend_entries, outline, overlay, printable, shorten

ORANGE = (230, 159, 0)


def halves(height, width):
    """Left half name 1, right half background."""
    labels = np.zeros((height, width), np.uint8)
    labels[:, : width // 2] = 1
    return labels


def test_colours_are_blended_by_hand():
    grey = np.full((40, 60, 3), 100, np.uint8)
    labels = halves(40, 60)
    labels[:10] = 255
    shown = np.asarray(overlay(grey, labels, ["cat"], opacity=0.5, legend=False))
    assert shown[25, 5].tolist() == [165, 130, 50]
    assert (shown[:10] == 100).all()
    assert (shown[:, 30:] == 100).all()
    assert tuple(shown[25, 29]) == ORANGE


def test_opacity_zero_keeps_everything_but_the_outline():
    image, labels = chelsea(), halves(300, 451)
    shown = np.asarray(overlay(image, labels, ["cat"], opacity=0.0, legend=False))
    changed = (shown != image).any(axis=2)
    assert changed.any()
    assert not (changed & ~outline(labels, thickness=1)).any()


def test_outline_lies_inside_the_mask():
    labels = np.zeros((7, 7), np.uint8)
    labels[2:5, 2:5] = 1
    edge = outline(labels, thickness=1)
    assert edge.sum() == 8
    assert not edge[3, 3]
    assert not outline(np.ones((5, 5), np.uint8), thickness=2).any()


def test_masks_and_labels_give_one_picture_and_the_first_of_overlapping_masks_shows():
    image, labels = chelsea(), halves(300, 451)
    masks = np.stack([labels == 1, np.ones_like(labels, bool)])
    assert overlay(image, masks, ["a", "b"], legend=False) == overlay(
        Image.fromarray(image), np.where(labels == 1, 1, 2), ["a", "b"], legend=False
    )


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (300, 451), (1200, 90), (60, 1500)])
@pytest.mark.parametrize("name", ["cat", "x" * 200, "кот 猫 قط 🐈", "two\nlines", "broken \ud800", "é" * 200])
def test_the_image_is_kept_and_the_legend_is_beneath(size, name):
    image = np.full((*size, 3), 77, np.uint8)
    picture = np.asarray(overlay(image, np.zeros(size, np.uint8), [name, "sofa"], shares=True))
    assert picture.shape[0] > size[0]
    assert picture.shape[1] >= size[1]
    left = (picture.shape[1] - size[1]) // 2
    assert (picture[: size[0], left : left + size[1]] == 77).all()
    legend = picture[size[0] :].reshape(-1, 3)
    # The swatch and letters are there, and nothing touches the rim, so nothing is cut.
    assert (legend == ORANGE).all(axis=1).sum() > 50
    assert (legend == 0).all(axis=1).sum() > 10
    assert (picture[size[0] :, -2:] == 255).all()
    assert (picture[-2:] == 255).all()


def test_long_names_end_in_an_ellipsis_within_the_width():
    font = ImageFont.load_default(20)
    text = shorten("a very long name " * 10, font, 150.0)
    assert text.startswith("a very") and text.endswith("…")
    assert 120 < font.getlength(text) <= 150
    assert shorten("cat", font, 150.0) == "cat"


def test_entries_keep_the_largest_in_the_order_of_the_names():
    entries = legend_entries(["a", "b", "c", "d"], [5, 0, 90, 10], total=200, shares=True, limit=2)
    assert [(entry.text, entry.tail) for entry in entries] == [("c", "  45.0 %"), ("d", "  5.0 %"), ("and 2 more", "")]
    assert entries[0].swatch == (0, 158, 115)


def test_printable_is_one_line():
    assert printable(" a\n b\tc \ud800") == "a b c ?"


def test_more_names_than_colours_still_draw():
    names = [f"name {i}" for i in range(300)]
    labels = np.full((20, 20), 255, np.int32)
    shown = np.asarray(overlay(np.zeros((20, 20, 3), np.uint8), labels, names, opacity=1.0, legend=False, ignore=None))
    assert tuple(shown[5, 5]) == ORANGE
    assert not np.asarray(overlay(np.zeros((20, 20, 3), np.uint8), labels, names, legend=False)).any()


@pytest.mark.parametrize(
    ("labels", "opacity", "message"),
    [
        (np.zeros((3, 3), int), 0.5, r"\(3, 3\) on an image of \(4, 4\)"),
        (np.full((4, 4), 2), 0.5, "hold 2 but only 1"),
        (np.zeros((2, 4, 4), bool), 0.5, "2 masks for 1 names"),
        (np.zeros((4, 4), int), 1.5, "opacity 1.5"),
    ],
)
def test_errors_name_the_value(labels, opacity, message):
    with pytest.raises(FusionerError, match=message):
        overlay(np.zeros((4, 4, 3), np.uint8), labels, ["cat"], opacity=opacity)
