"""What the inspector is asked for and hands out: bad requests change nothing, and its lines and pictures come back."""

import io

import numpy as np
import pytest
from PIL import Image

from fusionerlib.errors import FusionerError
from fusionerlib.inspector import InspectorState, inspect, panels
from fusionerlib.inspector.export import encode_panel, export_image, export_png, parameter_line
from tests.inspector.conftest import changed, pictures


def test_bad_requests_change_nothing(state, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    before, line = pictures(state), parameter_line(state)
    for operation, told in (
        (lambda: state.set_names(["cat", "cat"]), "given twice"),
        (lambda: state.set_names(["x" * 300]), "300 characters"),
        (lambda: state.set_names("cat"), "did you mean"),
        (lambda: state.set_threshold(1.2), "outside 0-1"),
        (lambda: state.set_opacity(-1.0), "outside 0-1"),
        (lambda: state.set_temperature(0.0), "temperature 0.0"),
        (lambda: state.choose("dog"), "'dog' is not asked"),
        (lambda: state.toggle("dog", True), "none of the names"),
        (lambda: state.go(9), "no image 9"),
        (lambda: state.add(tmp_path / "text.png", title="text"), "can't be read"),
    ):
        with pytest.raises(FusionerError, match=told):
            operation()
    assert parameter_line(state) == line and changed(before, pictures(state)) == set()
    assert len(state.cases) == 2
    state.set_names(["cat", "dog"])  # the image is still there to be asked


def test_without_an_image_or_a_name_it_says_so(segmenter, photo):
    empty = InspectorState(segmenter)
    assert {picture.shape for picture in pictures(empty).values()} == {(300, 400, 3)}
    with pytest.raises(FusionerError, match="no image to click"):
        empty.click(0, 0)
    empty.set_names(["cat"])
    empty.add(photo, title="mine.jpg")
    assert empty.answer.names == ("cat",) and "mine.jpg" in parameter_line(empty)
    empty.set_names([])
    assert empty.answer is None and panels.pixel_probabilities(empty) == []
    np.testing.assert_array_equal(pictures(empty)["overlay"], empty.small)
    assert np.asarray(export_image(empty)).std() > 20


def test_images_that_are_none_are_named(segmenter, photo):
    for images, told in (([3], "image 1 is a int"), (7, "images is 7"), ([(photo, photo)], "2 parts")):
        with pytest.raises(FusionerError, match=told):
            InspectorState(segmenter, images)
    with pytest.raises(FusionerError, match=r"labels are \(5, 5\)"):
        InspectorState(segmenter, [(photo, np.zeros((5, 5), np.uint8), ("cat",))])


def test_the_parameter_line_shows_the_same_again(segmenter, photo, labels, tmp_path):
    Image.fromarray(photo).save(tmp_path / "it's.png")
    images = [tmp_path / "it's.png", (photo, labels, ("cat",))]
    for index in (0, 1):
        state = InspectorState(segmenter, images)
        state.go(index)
        state.set_names(["it's a cat", 'a "dog"', "naïve sky"])
        state.toggle('a "dog"', False)
        state.set_threshold(0.41)
        state.set_opacity(0.8)
        state.set_temperature(1.5)
        state.choose("naïve sky")
        state.set_layer(1)
        state.click(50, 20)
        line = parameter_line(state)
        assert "\n" not in line
        again = eval(line, {"inspect": inspect, "segmenter": segmenter, "images": images}).state
        assert changed(pictures(state), pictures(again)) == set()
        assert panels.pixel_probabilities(again) == panels.pixel_probabilities(state) and parameter_line(again) == line


def test_the_line_of_a_comparison_shows_it_again(segmenter, make_segmenter, photo):
    given = {"inspect": inspect, "segmenter": segmenter, "second": make_segmenter("late"), "images": [photo]}
    for first, told in (
        (segmenter, "inspect(segmenter, "),
        ([segmenter, given["second"]], "inspect([segmenter, second], "),
    ):
        state = inspect(first, [photo], names=["cat", "sky"], threshold=0.3, beside_threshold=0.62).state
        state.set_temperature(4.000000000000003)
        line = parameter_line(state)
        assert line.startswith(told) and "beside_threshold=0.62" in line and "temperature=4.0," in line
        again = eval(line, given).state
        assert changed(pictures(state), pictures(again)) == set()


def test_png_round_trip(state):
    state.click(10, 10)
    with Image.open(io.BytesIO(export_png(state))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(export_image(state)))
        assert opened.text["parameters"] == parameter_line(state)
        assert max(opened.size) < 2000
    for key, picture in pictures(state).items():
        content, media = encode_panel(picture, key)
        with Image.open(io.BytesIO(content)) as opened:
            assert Image.MIME[opened.format] == media and picture.shape[1] <= 420
            difference = np.abs(np.asarray(opened.convert("RGB")).astype(int) - picture)
        assert difference.max() == 0 if media == "image/png" else difference.mean() < 6
