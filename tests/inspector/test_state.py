"""The inspector's state machine, without a browser: what runs when, and that it shows what a Segmentation says."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, coffee

from fusionerlib.datasets.scene import Scene
from fusionerlib.errors import FusionerError
from fusionerlib.inspector import InspectorState, panels
from fusionerlib.inspector.drawing import PATTERNS, draw_labels, draw_overlay, hatches
from fusionerlib.inspector.export import export_image
from fusionerlib.inspector.state import ANSWERS_KEPT, EVERYTHING
from tests.inspector.conftest import NAMES, changed, pictures


@pytest.fixture
def runs(segmenter):
    """One entry for each pass of the frozen tower's network."""
    seen = []
    handle = segmenter.visual.network.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def test_the_tower_runs_once_an_image(runs, segmenter, photo):
    state = InspectorState(segmenter, [photo, astronaut()[::4, ::4]], names=NAMES)
    pictures(state)
    assert len(runs) == 1
    state.set_names(["dog", "wall"])
    state.toggle("dog", False)
    state.set_threshold(0.7)
    state.set_opacity(0.1)
    state.set_temperature(2.0)
    state.set_layer(1)
    state.click(5, 9)
    pictures(state)
    export_image(state)
    assert len(runs) == 1
    state.step(1)
    assert len(runs) == 2


def test_an_answer_is_computed_once_and_can_be_had_before_it_is_asked_for(segmenter, photo):
    passes = []
    handle = segmenter.model.register_forward_hook(lambda *_: passes.append(1))
    state = InspectorState(segmenter, [photo, astronaut()[::4, ::4]], names=NAMES)
    first = state.answer
    assert state.asking(["cat", "dog"]).names == ("cat", "dog")
    assert state.names == NAMES and torch.equal(state.answer.coarse, first.coarse) and len(passes) == 2
    state.set_names(["cat", "dog"])
    state.set_names(NAMES)
    assert torch.equal(state.answer.coarse, first.coarse) and len(passes) == 2
    for turn in range(2 * ANSWERS_KEPT):
        state.asking(["cat", f"dog {turn}"])
    assert len(state._answers) == ANSWERS_KEPT
    with pytest.raises(FusionerError, match="given twice"):
        state.asking(["cat", "cat"])
    state.step(1)
    assert not torch.equal(state.answer.coarse, first.coarse), "answers are of one image"
    handle.remove()


def test_two_states_of_one_segmenter_keep_their_images(segmenter, photo):
    first = InspectorState(segmenter, [photo], names=NAMES)
    before = first.answer.coarse
    InspectorState(segmenter, [coffee()[::4, ::4]], names=NAMES)
    first.set_names(NAMES)
    assert torch.equal(first.answer.coarse, before)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.7, 1.0])
def test_masks_are_those_of_a_segmentation_at_that_threshold(state, segmenter, photo, threshold):
    state.set_threshold(threshold)
    expected = segmenter.set_image(photo).segment(NAMES, threshold=threshold)
    np.testing.assert_array_equal(state.answer.labels, expected.labels)
    # At the panels' size too, where Pillow resizes each map with the same pixel centres.
    height, width = state.small.shape[:2]
    maps = [Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR) for one in expected.coarse.numpy()]
    probabilities = torch.from_numpy(np.stack(maps)).sigmoid().numpy()
    decided = np.where(probabilities.max(0) > threshold, probabilities.argmax(0) + 1, 0)
    assert (panels.predicted(state) == decided).mean() > 0.999
    black = (pictures(state)["argmax"] == 0).all(-1)
    assert (black == (decided == 0)).mean() > 0.999


def test_temperature_divides_the_logits(state, segmenter, photo):
    state.set_temperature(4.0)
    logits = segmenter.set_image(photo).segment(NAMES).logits
    torch.testing.assert_close(state.answer.probabilities, torch.sigmoid(logits / 4))
    expected = np.where(torch.sigmoid(logits / 4).amax(0).numpy() > 0.3, logits.argmax(0).numpy() + 1, 0)
    assert (state.answer.labels == expected).mean() > 0.9999


def test_a_name_switched_off_is_not_asked_and_colours_stay(state, segmenter, photo):
    state.set_threshold(0.0)
    state.toggle("cat", False)
    assert state.on == ("grass", "sky") and state.names == NAMES and state.word == "grass"
    expected = segmenter.set_image(photo).segment(["grass", "sky"])
    torch.testing.assert_close(state.answer.coarse, expected.coarse)
    labels = panels.predicted(state) + 1  # "grass" is the second of the names, as before
    np.testing.assert_array_equal(pictures(state)["argmax"], draw_labels(labels))
    state.toggle("cat", True)
    assert state.on == NAMES
    torch.testing.assert_close(state.answer.coarse, segmenter.segment(NAMES).coarse)


@pytest.mark.parametrize("pixel", [(0, 0), (119, 199), (63, 101), (7, 180)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_clicked_pixels_numbers_are_the_segmentations(state, pixel, temperature):
    state.set_temperature(temperature)
    state.click(*pixel)
    told = panels.pixel_probabilities(state)
    expected = dict(zip(NAMES, state.answer.probabilities[:, pixel[0], pixel[1]].tolist(), strict=True))
    assert dict(told) == pytest.approx(expected, abs=1e-5)
    assert [name for name, _ in told] == sorted(expected, key=lambda name: -expected[name])


def test_operations_say_what_they_change(segmenter, photo, labels):
    state = InspectorState(segmenter, [(photo, labels, ("cat", "dog"))], names=NAMES, threshold=0.3)
    for operation in (
        lambda: state.set_threshold(0.6),
        lambda: state.set_opacity(0.9),
        lambda: state.set_temperature(3.0),
        lambda: state.choose("sky"),
        lambda: state.set_layer(1),
        lambda: state.click(30, 30),
        lambda: state.toggle("grass", False),
        lambda: state.set_names(["cat", "dog"]),
    ):
        before = pictures(state)
        told = operation()
        assert set() < changed(before, pictures(state)) <= told <= EVERYTHING
    assert state.set_opacity(0.2) == {"overlay"}


def test_the_error_map_is_counted_by_hand(segmenter, photo, labels):
    state = InspectorState(segmenter, [(photo, labels, ("cat", "dog"))], names=NAMES, threshold=0.0)
    truth, predicted = panels.truth(state), panels.predicted(state)
    assert set(np.unique(truth)) == {0, 1, 255}, "what is not asked is background"
    wrong = (truth == 1) & (predicted > 1)
    picture, caption = panels.draw_panel(state, "error")
    judged = (truth != 255).sum()
    assert f"missed (blue /) {0:.0%}" in caption
    assert f"extra (orange \\) {((truth == 0) & (predicted > 0)).sum() / judged:.0%}" in caption
    assert f"wrong (pink x) {wrong.sum() / judged:.0%}" in caption
    shared, either = (truth == 1) & (predicted == 1), (truth == 1) | ((predicted == 1) & (truth != 255))
    assert caption.startswith(f"IoU of “cat” {shared.sum() / either.sum():.2f}, ")
    assert (picture[truth == 255] == 255).all()
    state.choose("grass")
    assert panels.draw_panel(state, "error")[1].startswith("IoU of “grass” 0.00, "), "found, but nowhere there"
    state.set_threshold(1.0)
    assert panels.draw_panel(state, "error")[1].startswith("IoU of “grass” none")
    assert f"missed (blue /) {(truth == 1).sum() / judged:.0%}" in panels.draw_panel(state, "error")[1]


def test_a_case_brings_its_names_and_a_photo_keeps_them(segmenter, photo, labels):
    scene = Scene(image=photo, labels=labels, names=("cat", "dog"), key="scene 7")
    state = InspectorState(segmenter, [photo, scene], names=["sky"])
    state.step(-1)
    assert state.names == ("cat", "dog") and state.case.title == "scene 7"
    state.set_names(["cat"])
    state.step(1)
    assert state.names == ("cat",) and panels.truth(state) is None
    assert InspectorState(segmenter, [scene]).names == ("cat", "dog")


def test_attention_layer_by_layer_or_the_reason_why_not(state, make_segmenter, photo):
    state.set_layer(1)
    _, caption = panels.draw_panel(state, "attention")
    rows = state.segmenter.attention(NAMES)
    assert caption.startswith(f"layer 2 of 2: {rows[1, 0].sum():.0%} on patches") and state.layers == 2
    late = InspectorState(make_segmenter("late"), [photo], names=NAMES)
    windows = InspectorState(make_segmenter(stride=64), [photo], names=NAMES)
    windows.click(3, 3)
    reasons = (panels.draw_panel(late, "attention")[0], panels.draw_panel(windows, "similarity")[0])
    assert all(one.shape == (300, 400, 3) and (one == 242).all(-1).mean() > 0.8 for one in reasons)
    assert panels.predicted(windows).any()


def test_the_clicked_patch_is_the_brightest(state):
    state.click(60, 100)
    grid = state.segmenter.tokens.main.grid
    unclicked = InspectorState(state.segmenter, [state.photo], names=NAMES)
    assert (panels.draw_panel(unclicked, "similarity")[0] == 242).any()
    picture = panels.draw_panel(state, "similarity")[0].astype(int).sum(-1)
    tall, wide = picture.shape[0] // grid[0], picture.shape[1] // grid[1]
    row, column = 60 * grid[0] // 120, 100 * grid[1] // 200
    blocks = picture[: tall * grid[0], : wide * grid[1]].reshape(grid[0], tall, grid[1], wide).mean((1, 3))
    assert blocks[row, column] > np.quantile(blocks, 0.8)


def test_classes_differ_without_colour(photo):
    for first, second in combinations(range(PATTERNS), 2):
        lines = hatches(60, 80)
        assert (lines[first] != lines[second]).mean() > 0.08
    grey = [
        np.asarray(Image.fromarray(draw_labels(np.full((60, 80), k + 1))).convert("L"), dtype=float)
        for k in range(PATTERNS)
    ]
    assert all(one.std() > 8 for one in grey), "a hatch that nobody sees"
    labels = np.zeros(photo.shape[:2], dtype=np.int32)
    labels[20:90, 30:80], labels[20:90, 120:180] = 1, 9  # hatches come round again, colours don't
    bare = draw_overlay(photo, labels, opacity=0.0)
    assert (bare[labels == 0] == photo[labels == 0]).all() and (bare[labels > 0] != photo[labels > 0]).any()
