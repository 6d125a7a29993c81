"""What the segmenter is given: names, images, sizes and checkpoints that can't be used are named."""

import numpy as np
import pytest
from PIL import Image

from fusionerlib import Segmenter
from fusionerlib.errors import FusionerError
from fusionerlib.images import read_image
from fusionerlib.inference.requests import checked_names, checked_threshold
from tests.inference.test_segmenter import make, photo, segmenter

__all__ = ["photo", "segmenter"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", r"did you mean \['cat'\]"),
        ([], "no names"),
        (["cat", "x" * 500], "has 500 characters, expected at most 200"),
        (["cat", "  "], "name 2 of 2 is blank"),
        (["cat", "sky", "cat"], "the name 'cat' is given twice"),
        (["cat", 3], r"name 2 of 2 is 3 \(int\)"),
        ([None], "NoneType"),
        (3, r"names is 3 \(int\), expected a list"),
        (["\u200b"], "name 1 of 1 is blank"),
        (["cat", "_"], "name 2 of 2 has neither a letter nor a digit"),
        (["..."], "name 1 of 1 has neither a letter nor a digit"),
        (["cat", "dog", "Cat"], r"the names 'cat' and 'Cat' are the same"),
        (["cat ", "cat"], "the names 'cat ' and 'cat' are the same"),
        (["horses", "a photo of a horse"], "both are 'horse'"),
        (["caf\udce9"], "lone surrogate.*UTF-8"),
    ],
)
def test_names_that_cant_be_asked(names, message):
    with pytest.raises(FusionerError, match=message):
        checked_names(names)


def test_any_iterable_of_names_is_a_list():
    assert checked_names(name for name in ("cat", "dog")) == ("cat", "dog")
    assert checked_names(np.array(["cat", "dog"])) == ("cat", "dog")
    assert len(checked_names([f"name {place}" for place in range(20_000)])) == 20_000
    with pytest.raises(FusionerError, match="given twice"):
        checked_names(["Cat", "Cat"], forms=lambda name: name)
    assert checked_names(["Cat", "cat"], forms=lambda name: name) == ("Cat", "cat"), "identifiers are raw"


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ("0.5", r"threshold '0.5' \(str\): expected a number from 0 to 1"),
        (True, r"threshold True \(bool\)"),
        (None, "NoneType"),
        (float("nan"), "outside 0-1"),
        ({"cat": "0.5"}, r"'0.5' of 'cat' \(str\)"),
        ({"sofa": 0.5}, "'sofa', which is not asked for"),
        ({3: 0.5}, "3, which is not asked for"),
        ({"cat": 0.5, "Cats": 0.4}, "'Cats': there is one of 'cat' already"),
    ],
)
def test_thresholds_that_cant_be_used(threshold, message):
    with pytest.raises(FusionerError, match=message):
        checked_threshold(threshold, ("cat", "dog"))


def test_thresholds_by_name_find_other_forms_of_it():
    assert checked_threshold({"Cat": 0.3}, ("a cat", "dog")) == {"a cat": 0.3}
    assert checked_threshold(np.float32(0.25)) == 0.25


def test_notes_come_with_every_result_and_once_for_many(segmenter, photo):
    asked = ["a photo of a cat", "dog"]
    result = segmenter.set_image(photo).segment(asked)
    assert result.notes == ("'a photo of a cat' is asked as 'cat'",)
    assert result.at(0.2).notes == result.notes == segmenter.notes(asked)
    results = [found.notes for _, found in segmenter.predict([photo, photo], asked)]
    assert results[0] is results[1] is segmenter.notes(asked)
    with pytest.raises(FusionerError, match="are the same to the text encoder"):
        segmenter.notes(["cat", "Cats"])


def test_a_notebook_shows_the_notes_above_the_overlay(segmenter, photo, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    segmenter.set_image(photo).segment(["a photo of a cat"])._ipython_display_()
    assert capsys.readouterr().out == "note: 'a photo of a cat' is asked as 'cat'\n"
    (picture,) = shown
    assert picture.data.startswith(b"\x89PNG")


def test_segment_checks_names_and_image(segmenter, photo):
    with pytest.raises(FusionerError, match="set_image"):
        segmenter.segment(["cat"])
    segmenter.set_image(photo)
    for names in ("cat", [], ["x" * 201]):
        with pytest.raises(FusionerError):
            segmenter.segment(names)
    segmenter.segment(["x" * 200])


def test_exif_orientation_is_applied(tmp_path, segmenter, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(photo, -1))
    assert segmenter.set_image(tmp_path / "turned.png").segment(["cat"]).masks.shape == (1, 200, 120)


def test_broken_files_are_named_and_the_former_image_is_forgotten(tmp_path, segmenter, photo):
    Image.fromarray(photo).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "text.png", "empty.jpg"):
        segmenter.set_image(tmp_path / "whole.jpg")
        with pytest.raises(FusionerError, match=rf"{name}' can't be read .*save it anew"):
            segmenter.set_image(tmp_path / name)
        with pytest.raises(FusionerError, match="no image is set"):
            segmenter.segment(["cat"])
    with pytest.raises(FusionerError, match="is not a file"):
        segmenter.set_image(tmp_path)


def test_size_must_fit_the_encoder():
    with pytest.raises(FusionerError, match=r"size 100 does not fit encoder 'mean-colours'.*multiple of 32"):
        make(size=100)


def test_missing_checkpoint_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    for name in ("nothing", "half"):
        with pytest.raises(FusionerError, match=rf"{name}.*outputs/{name}/checkpoint.*packaged"):
            Segmenter.load(name)
