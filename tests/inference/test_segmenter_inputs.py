"""What the segmenter is given: names, images, sizes and checkpoints that can't be used are named."""

import numpy as np
import pytest
from PIL import Image

from fusionerlib import Segmenter
from fusionerlib.errors import FusionerError
from fusionerlib.images import read_image
from fusionerlib.inference.requests import checked_names
from tests.inference.test_segmenter import make, photo, segmenter

__all__ = ["photo", "segmenter"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", r"did you mean \['cat'\]"),
        ([], "no names"),
        (["cat", "x" * 500], "has 500 characters, expected at most 200"),
        (["cat", "  "], "name 1 is blank"),
        (["cat", "sky", "cat"], "name 2, 'cat', is given twice"),
        (["cat", 3], r"name 1 is 3 \(int\)"),
        ([None], "NoneType"),
    ],
)
def test_names_that_cant_be_asked(names, message):
    with pytest.raises(FusionerError, match=message):
        checked_names(names)


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
