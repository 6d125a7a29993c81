"""Masks of COCO files against plain drawings: forms of a shape, what ``iscrowd`` means, and shapes that are none."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusionerlib import FusionerError, read_folder
from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.formats.coco_json import PUBLISHED
from fusionerlib.datasets.formats.shapes import BadShape, check_shape, object_mask
from fusionerlib.errors import FusionerWarning
from tests.faults.coco_files import HEIGHT, WIDTH, Json, box, filled, packed, rle, run_lengths, thing, written

RING = filled(2, 2, 20, 18) & ~filled(6, 6, 12, 12)
TWO_PARTS = filled(0, 0, 4, 4) | filled(20, 10, 28, 19)
BLOB = filled(3, 3, 9, 9)
masks = arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def told(root: Path, **options: Any) -> tuple[Any, str]:
    """The scenes of a folder, and the text of its warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scenes = read_folder(root, **options)
    return scenes, "".join(str(one.message) for one in caught if one.category is FusionerWarning)


# Every form of a shape ------------------------------------------------------------------------------------------------


@given(mask=masks, text=st.booleans())
@example(mask=np.ones((3, 4), dtype=bool), text=True)
@example(mask=np.zeros((1, 1), dtype=bool), text=True)
@example(mask=np.arange(2400).reshape(60, 40) % 1200 < 3, text=True)  # counts of three characters, and falling ones
@settings(max_examples=300, deadline=None)
def test_run_lengths_are_the_mask_they_were_made_of(mask: np.ndarray, text: bool) -> None:
    shape = rle(mask, text=text)
    np.testing.assert_array_equal(object_mask(shape, *mask.shape, where="here"), mask)
    if text:  # the writing of this test is the format's
        runs = pytest.importorskip("pycocotools.mask")
        np.testing.assert_array_equal(runs.decode(shape), mask)


@given(
    corners=st.lists(
        st.tuples(st.floats(-WIDTH, 2 * WIDTH, width=32), st.floats(-HEIGHT, 2 * HEIGHT, width=32)),
        min_size=3,
        max_size=7,
    )
)
@settings(max_examples=200, deadline=None)
def test_polygons_cover_the_pixels_whose_centres_they_hold(corners: list[tuple[float, float]]) -> None:
    """Counted by crossings (even-odd rule); pixels within one pixel of an edge may be on either side."""
    # What lies within the first pixel is refused as fractions of the image.
    assume(not all(0 <= value <= 1 for corner in corners for value in corner))
    mask = object_mask([[value for corner in corners for value in corner]], HEIGHT, WIDTH, where="here")
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    inside, near = np.zeros((HEIGHT, WIDTH), dtype=bool), np.zeros((HEIGHT, WIDTH), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1)
        near |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= 1.5
    np.testing.assert_array_equal(mask[~near], inside[~near])


@given(
    left=st.integers(0, WIDTH - 1),
    top=st.integers(0, HEIGHT - 1),
    right=st.integers(1, WIDTH),
    low=st.integers(1, HEIGHT),
)
def test_rectangles_are_exact(left: int, top: int, right: int, low: int) -> None:
    right, low = max(right, left + 1), max(low, top + 1)
    mask = object_mask(box(left, top, right, low), HEIGHT, WIDTH, where="here")
    np.testing.assert_array_equal(mask, filled(left, top, right, low))


@pytest.mark.parametrize(
    "size", [[HEIGHT, WIDTH], [str(HEIGHT), str(WIDTH)], [float(HEIGHT), float(WIDTH)], (HEIGHT, WIDTH)]
)
def test_a_size_is_read_however_it_is_written(size: Any) -> None:
    shape = {"size": size, "counts": run_lengths(RING)}
    np.testing.assert_array_equal(object_mask(shape, HEIGHT, WIDTH, where="here"), RING)


# What iscrowd means ---------------------------------------------------------------------------------------------------

CVAT = {"attributes": {"occluded": False}}
DATUMARO = {"attributes": {"occluded": False, "is_crowd": True}, "segmentation_id": 3}


@pytest.mark.parametrize("mask", [RING, TWO_PARTS, BLOB], ids=["a hole", "two parts", "one part"])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("extra", [{}, CVAT, DATUMARO])
@pytest.mark.parametrize(
    "names",
    [
        [{"id": 1, "name": "cell"}],
        [{"id": 1, "name": "person"}],  # COCO's name and id, and nothing else of COCO's
        [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],  # COCO's names with ids of one's own
        [{"id": 1, "name": "sky"}, {"id": 2, "name": "bicycle"}],
    ],
)
def test_run_lengths_of_an_own_file_are_an_object(
    tmp_path: Path, mask: np.ndarray, text: bool, extra: Json, names: list[Json]
) -> None:
    """As CVAT's brush, datumaro and supervision write an object with a hole, in two parts, or any mask."""
    crowd = thing(1, 1, rle(mask, text=text), iscrowd=1, **extra)
    scenes, text_told = told(written(tmp_path, [crowd, thing(2, 1, box(1, 1, 5, 5))], names=names))
    assert [scenes.names(index) for index in range(len(scenes))] == [(names[0]["name"],)] * 2
    np.testing.assert_array_equal(scenes[0].labels, mask)
    assert "marked iscrowd, read as objects and not ignored: 1 (image 0001.png, annotation 1)" in text_told


@pytest.mark.parametrize(
    ("names", "number"),
    [
        ([{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}], 5),
        ([{"id": number, "name": name} for number, name in PUBLISHED.items()], 5),
        ([{"id": 1, "name": "person"}], 900100493652),  # one category of COCO, with COCO's number of a crowd
    ],
)
def test_a_crowd_of_coco_stays_ignored_in_a_part_of_coco(tmp_path: Path, names: list[Json], number: int) -> None:
    things = [thing(1, 1, rle(RING), iscrowd=1, id=number), thing(1, 1, box(0, 0, 3, 3))]
    scenes, text = told(written(tmp_path, things, names=names))
    expected = np.where(RING, 255, 0)
    expected[:3, :3] = 1
    np.testing.assert_array_equal(scenes[0].labels, expected)
    assert "iscrowd" not in text


def test_a_polygon_marked_crowd_is_ignored(tmp_path: Path) -> None:
    """No tool writes that by itself: somebody has said so."""
    scenes, _ = told(written(tmp_path, [thing(1, 1, box(0, 0, 9, 9), iscrowd=1), thing(1, 2, box(20, 0, 25, 5))]))
    np.testing.assert_array_equal(scenes[0].labels, np.where(filled(0, 0, 9, 9), 255, 0) + filled(20, 0, 25, 5))


@pytest.mark.parametrize("flag", [1.0, "1", True, "true", "True"])
def test_the_flag_is_read_however_it_is_written(tmp_path: Path, flag: Any) -> None:
    things = [
        thing(1, 1, box(0, 0, 9, 9), iscrowd=flag),
        thing(1, 1, rle(RING), iscrowd=flag),
        thing(2, 2, box(0, 0, 5, 5)),
    ]
    scenes, text = told(written(tmp_path, things))
    expected = np.where(filled(0, 0, 9, 9), 255, 0)
    expected[RING] = 1
    np.testing.assert_array_equal(scenes[0].labels, expected)
    assert "marked iscrowd, read as objects and not ignored: 1" in text


@pytest.mark.parametrize("flag", [0.0, "0", False, None, "", "false", [], {}])
def test_any_other_flag_is_none(tmp_path: Path, flag: Any) -> None:
    scenes, text = told(written(tmp_path, [thing(1, 1, box(0, 0, 9, 9), iscrowd=flag), thing(2, 2, box(0, 0, 5, 5))]))
    np.testing.assert_array_equal(scenes[0].labels, filled(0, 0, 9, 9))
    assert text == ""


def test_published_files_keep_their_crowds(tmp_path: Path) -> None:
    root = written(tmp_path, [thing(1, 1, rle(RING), iscrowd=1), thing(1, 1, box(0, 0, 3, 3))])
    assert (CocoInstances(root)[0].labels == 255).sum() == (RING & ~filled(0, 0, 3, 3)).sum()


# Shapes that are none -------------------------------------------------------------------------------------------------

GOOD = box(1, 1, 6, 6)[0]
BAD: dict[str, Any] = {
    "null": None,
    "empty": [],
    "text": "1 1 6 1 6 6",
    "a number": 7,
    "flat": GOOD,
    "a box": [[1, 1, 6, 6]],
    "points": [[1, 1], [6, 1], [6, 6]],
    "a list of points": [[[1, 1], [6, 1], [6, 6]]],
    "nested too deep": [[GOOD]],
    "one point": [[1, 1]],
    "an empty part": [GOOD, []],
    "two points beside a good part": [GOOD, [1, 1, 6, 6]],
    "an odd number": [[*GOOD, 3]],
    "text as a number": [["1", "1", "6", "1", "6", "6"]],
    "null as a number": [[1, 1, 6, None, 6, 6]],
    "true as a number": [[1, 1, 6, True, 6, 6]],
    "parts by name": [{"x": 1}],
    "nan": [[1, 1, 6, float("nan"), 6, 6]],
    "infinity": [[1, 1, 6, float("inf"), 6, 6]],
    "minus infinity": [[1, 1, 6, float("-inf"), 6, 6]],
    "1e9": [[1, 1, 1e9, 1, 6, 6]],
    "-1e9": [[1, 1, 6, -1e9, 6, 6]],
    "1e308": [[1e308, 1e308, 1e308, 1e308, 6, 6]],
    "an integer of 400 digits": [[1, 1, 10**400, 1, 6, 6]],
    "fractions of the image": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.75]],
    "run lengths in a list": [{"size": [HEIGHT, WIDTH], "counts": run_lengths(RING)}],
    "bytes as Python writes them": {"size": [HEIGHT, WIDTH], "counts": repr(packed(run_lengths(RING)).encode())},
    "bytes as numbers": {"size": [HEIGHT, WIDTH], "counts": [*packed(run_lengths(RING)).encode()]},
    "truth values as counts": {"size": [HEIGHT, WIDTH], "counts": [True, True, HEIGHT * WIDTH - 2]},
    "negative, with the right sum": {"size": [HEIGHT, WIDTH], "counts": [10, -5, HEIGHT * WIDTH - 5]},
    "of its own box": {"size": [8, 7], "counts": [0, 56]},
    "size in a text": {"size": f"{HEIGHT},{WIDTH}", "counts": run_lengths(RING)},
    "size with channels": {"size": [HEIGHT, WIDTH, 1], "counts": run_lengths(RING)},
    "no counts": {"size": [HEIGHT, WIDTH]},
    "no size": {"counts": [HEIGHT * WIDTH]},
    "counts null": {"size": [HEIGHT, WIDTH], "counts": None},
    "size null": {"size": None, "counts": [HEIGHT * WIDTH]},
    "size exchanged": {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
    "size of another image": {"size": [HEIGHT, WIDTH + 1], "counts": [HEIGHT * (WIDTH + 1)]},
    "ends too early": {"size": [HEIGHT, WIDTH], "counts": [3, 10]},
    "too long": {"size": [HEIGHT, WIDTH], "counts": [3, 10, HEIGHT * WIDTH]},
    "no run": {"size": [HEIGHT, WIDTH], "counts": []},
    "negative": {"size": [HEIGHT, WIDTH], "counts": [-5, 10, HEIGHT * WIDTH - 5]},
    "nan as a count": {"size": [HEIGHT, WIDTH], "counts": [float("nan"), HEIGHT * WIDTH]},
    "half a pixel": {"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH - 0.5]},
    "text in counts": {"size": [HEIGHT, WIDTH], "counts": ["600"]},
    "counts nested": {"size": [HEIGHT, WIDTH], "counts": [[600]]},
    "a text that ends too early": {"size": [HEIGHT, WIDTH], "counts": packed([3, 10])},
    "a text that is too long": {"size": [HEIGHT, WIDTH], "counts": packed([3, 10, HEIGHT * WIDTH])},
    "a text that breaks off": {"size": [HEIGHT, WIDTH], "counts": packed(run_lengths(RING))[:-1] + "o"},
    "an empty text": {"size": [HEIGHT, WIDTH], "counts": ""},
    "a text of another kind": {"size": [HEIGHT, WIDTH], "counts": "not run lengths!"},
    "a text with umlauts": {"size": [HEIGHT, WIDTH], "counts": "ü" * 20},
    "a count of 64 bits": {"size": [HEIGHT, WIDTH], "counts": "o" * 30 + "0"},
    "a negative text": {"size": [HEIGHT, WIDTH], "counts": packed([3, -4, HEIGHT * WIDTH + 1])},
}


@pytest.mark.parametrize("shape", BAD.values(), ids=BAD)
def test_an_object_without_a_shape_is_left_out_and_named(tmp_path: Path, shape: Any) -> None:
    things = [thing(1, 1, shape), thing(1, 2, box(8, 8, 20, 16)), thing(2, 1, box(0, 0, 5, 5))]
    root = written(tmp_path, things)
    scenes, text = told(root)
    assert [scenes.names(index) for index in range(2)] == [("fibre",), ("cell",)]
    np.testing.assert_array_equal(scenes[0].labels, filled(8, 8, 20, 16))
    np.testing.assert_array_equal(scenes[1].labels, filled(0, 0, 5, 5))
    assert "objects left out, their segmentation can't be read: 1 (image 0001.png, annotation 1: " in text
    with pytest.raises(FusionerError, match=r"instances\.json: objects left out, .* 1 \(image 0001\.png, annotation 1"):
        read_folder(root, strict=True)


def test_without_any_object_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"no object that can be used .*left out, .*: 2 \(.*annotation 1: it"):
        read_folder(written(tmp_path, [thing(1, 1, []), thing(2, 1, None)]))


@given(counts=st.lists(st.integers(0, HEIGHT * WIDTH), max_size=9), text=st.booleans())
@settings(max_examples=300, deadline=None)
def test_run_lengths_that_do_not_fill_the_image_never_pass(counts: list[int], text: bool) -> None:
    shape = {"size": [HEIGHT, WIDTH], "counts": packed(counts) if text else counts}
    if sum(counts) == HEIGHT * WIDTH:
        assert object_mask(shape, HEIGHT, WIDTH, where="here").sum() == sum(counts[1::2])
    else:
        with pytest.raises(BadShape):
            check_shape(shape, HEIGHT, WIDTH)


@given(text=st.text(max_size=30) | st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_text_gives_pixels_that_nobody_wrote(text: str) -> None:
    """Whatever is accepted means what it says: written anew it is the same mask."""
    shape = {"size": [3, 4], "counts": text}
    try:
        mask = object_mask(shape, 3, 4, where="here")
    except FusionerError:
        return
    np.testing.assert_array_equal(object_mask(rle(mask), 3, 4, where="here"), mask)


def _json(depth: int) -> Iterator[Any]:
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    yield st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner), max_leaves=depth
    )


@given(shape=next(_json(12)), value=next(_json(4)), key=st.sampled_from(["image_id", "category_id", "iscrowd", "id"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_in_an_annotation_leaves_the_others_as_they_are(
    tmp_path: Path, shape: Any, value: Any, key: str
) -> None:
    things = [thing(1, 1, shape), thing(2, 2, box(8, 8, 20, 16)), {**thing(1, 1, box(0, 0, 2, 2)), key: value}]
    scenes, _ = told(written(tmp_path, things))
    place = next(index for index in range(len(scenes)) if "fibre" in scenes.names(index))
    kept = scenes[place].labels[8:16, 8:20]
    assert (kept == scenes.names(place).index("fibre") + 1).all() or value in (2, "2", 2.0)
