"""A name learnt from examples: which masks help, what it changes, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.inference.examples import read_mask
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.models import build
from tests.small_runs import learner


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return data.chelsea()


@pytest.fixture
def segmenter(photo):
    return learner(photo)


def halves(photo):
    mask = np.zeros(photo.shape[:2], dtype=bool)
    mask[:, : photo.shape[1] // 2] = True
    return mask, ~mask


def test_learning_changes_no_other_name_and_is_forgotten_again(segmenter, photo) -> None:
    before = segmenter.segment(["whiskers", "sofa"]).coarse
    left, _ = halves(photo)
    assert segmenter.learn("whiskers", [(photo, left)]) is segmenter
    assert segmenter.example_names == ("whiskers",)
    after = segmenter.segment(["whiskers", "sofa"]).coarse
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])
    # The plural and the article are the same name.
    assert torch.equal(segmenter.segment(["the Whiskers", "sofa"]).coarse, after)
    segmenter.forget("Whiskers")
    assert torch.equal(segmenter.segment(["whiskers", "sofa"]).coarse, before) and segmenter.example_names == ()


def test_nothing_is_said_of_a_name_that_was_taught(segmenter, photo) -> None:
    assert "no English word" in segmenter.notes(["whiskerzz"])[0]
    segmenter.learn("whiskerzz", [(photo, halves(photo)[0])])
    result = segmenter.segment(["whiskerzz", "sofa"])
    assert segmenter.notes(["whiskerzz"]) == result.notes == ()
    assert len(segmenter.notes(["whiskerzz", "gribblefrotz"])) == 1, "others are told as before"
    assert repr(result) == "Segmentation('whiskerzz', 'sofa'; 300 x 451 pixels, threshold 0.5)"
    segmenter.forget("whiskerzz")
    assert segmenter.notes(["whiskerzz"])


def test_the_direction_points_to_the_masked_region(segmenter, photo) -> None:
    left, right = halves(photo)
    width = segmenter.model.examples.width
    patches = segmenter.tokens.main.tokens[0, :, :width].float().reshape(14, 14, width)
    segmenter.learn("whiskers", [(photo, left)])
    token = segmenter.model.examples.tokens(["whiskers"])[0]
    ratio = patches @ token[:width] + token[width]
    assert ratio[:, :7].mean() > ratio[:, 7:].mean()
    segmenter.forget("whiskers").learn("whiskers", [(photo, right)])
    token = segmenter.model.examples.tokens(["whiskers"])[0]
    ratio = patches @ token[:width] + token[width]
    assert ratio[:, :7].mean() < ratio[:, 7:].mean()


def test_what_was_learnt_is_saved_with_the_checkpoint(segmenter, photo, tmp_path) -> None:
    left, _ = halves(photo)
    segmenter.learn("whiskers", [(photo, left), (photo, left)])
    expected = segmenter.segment(["whiskers", "sofa"]).coarse
    loaded = Segmenter.load(segmenter.save_pretrained(tmp_path / "taught"))
    assert "Learnt later from examples, without training: whiskers." in (tmp_path / "taught" / "README.md").read_text()
    assert loaded.example_names == ("whiskers",)
    torch.testing.assert_close(
        loaded.set_image(photo).segment(["whiskers", "sofa"]).coarse, expected, atol=1e-4, rtol=1e-4
    )


def test_masks_are_read_from_arrays_images_and_files(photo, tmp_path) -> None:
    left, _ = halves(photo)
    indices = Image.fromarray(left.astype(np.uint8)).convert("P")
    indices.putpalette([9, 9, 9] * 256)
    indices.save(tmp_path / "mask.png")
    for given in (left, left.astype(np.uint8) * 255, Image.fromarray(left), indices, tmp_path / "mask.png"):
        assert np.array_equal(read_mask(given), left)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no example"),
        ([(np.zeros((8, 8, 3), np.uint8), np.ones((4, 4), bool))], "mask of 4 x 4 pixels for an image of 8 x 8"),
        ([(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool))], "example 1: the mask has no pixel"),
        ([(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)))], "a mask is a boolean array"),
        ([(np.zeros((8, 8, 3), np.uint8), "nowhere.png")], "'nowhere.png' is not a file"),
    ],
)
def test_examples_that_do_not_fit_are_refused_and_nothing_is_learnt(segmenter, examples, message) -> None:
    with pytest.raises(FusionerError, match=message):
        segmenter.learn("whiskers", examples)
    assert segmenter.example_names == ()


def test_a_checkpoint_without_examples_says_what_to_load(photo) -> None:
    run = RunConfig.flat(preset="modern", examples=False)
    visual = visual_of(run.pair)
    model = build(run.fusion, visual_width=visual.width, text_width=1000)
    plain = Segmenter(model=model, visual=visual, text_cache=text_cache_of(run.pair))
    with pytest.raises(FusionerError, match="can't learn from examples"):
        plain.learn("cat", [(photo, halves(photo)[0])])
    with pytest.raises(FusionerError, match="can't learn from examples"):
        plain.forget("cat")
