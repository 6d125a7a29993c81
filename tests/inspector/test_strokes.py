"""Strokes of brush, eraser and box: their pixels, their folder, and what the model learns from them."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea, coffee

from fusionerlib.datasets.folder import read_folder
from fusionerlib.errors import FusionerError, FusionerWarning
from fusionerlib.inspector import InspectorState, inspect
from fusionerlib.inspector.panels import draw_large
from fusionerlib.inspector.strokes import Stroke, marks, painted, save_strokes
from tests.small_runs import learner

SIZE = (60, 100)


@pytest.fixture(scope="module")
def taught():
    return learner(chelsea())


def test_a_stroke_is_the_pixels_under_the_brush():
    (down, right), reach = (0.5, 0.5), 0.1
    dot = painted("brush", [(down, right)], size=SIZE, radius=reach)
    rows, columns = np.nonzero(dot)
    assert dot.sum() == pytest.approx(np.pi * 6**2, rel=0.2)
    assert (rows.mean(), columns.mean()) == pytest.approx((30, 50), abs=0.6)
    line = painted("brush", [(0.5, 0.1), (0.5, 0.9)], size=SIZE, radius=reach)
    assert line[30, 12:88].all() and not line[:20].any()
    box = painted("box", [(0.8, 0.9), (0.5, 0.7), (0.2, 0.1)], size=SIZE, radius=reach)
    assert box[12:48, 10:90].all() and box.sum() == pytest.approx(36 * 80, rel=0.06)
    assert painted("brush", [(-3.0, 9.0)], size=SIZE, radius=0.0).sum() >= 1, "outside the picture: its edge"
    for tool, points in (("look", [(0.5, 0.5)]), ("brush", [])):
        with pytest.raises(FusionerError, match="paint with brush"):
            painted(tool, points, size=SIZE, radius=reach)


def stroke(name, rows, *, index=0, erased=False):
    marked = np.zeros(SIZE, dtype=bool)
    marked[rows] = True
    return Stroke(index, name, marked, erased)


def test_the_later_stroke_counts_and_the_eraser_is_of_its_name():
    found = marks([stroke("cat", np.s_[:30]), stroke("dog", np.s_[20:40]), stroke("cat", np.s_[:5], erased=True)], 0)
    assert found["cat"][5:20].all() and not found["cat"][:5].any() and not found["cat"][20:].any()
    assert found["dog"].sum() == 20 * 100
    assert marks([stroke("cat", np.s_[:9]), stroke("cat", np.s_[:9], erased=True)], 0) == {}
    assert marks([stroke("cat", np.s_[:9], index=1)], 0) == {}


def test_strokes_are_saved_as_a_data_set_that_the_project_reads(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    photos = {0: ("my cat.jpg", photo), 2: ("dog", photo[::-1].copy())}
    drawn = [stroke("cat", np.s_[:10]), stroke("dog", np.s_[50:], index=2)]
    assert save_strokes(tmp_path, drawn, photos) == 2
    data = read_folder(tmp_path)
    assert len(data) == 2 and (tmp_path / "names.txt").read_text() == "1 cat\n2 dog\n"
    mask = np.asarray(Image.open(tmp_path / "masks" / "002-dog.png"))
    assert (mask[50:] == 2).all() and (mask[:50] == 255).all(), "what nobody painted says nothing"
    # Painted again, in another order: the indices of the names stay.
    save_strokes(tmp_path, [*drawn[1:], stroke("bird", np.s_[:10], index=2)], photos)
    assert (tmp_path / "names.txt").read_text() == "1 cat\n2 dog\n3 bird\n"
    assert (np.asarray(Image.open(tmp_path / "masks" / "002-dog.png"))[:10] == 3).all()
    with pytest.raises(FusionerError, match="nothing is painted"):
        save_strokes(tmp_path, [], photos)


@pytest.mark.parametrize(
    ("names", "name", "said"),
    [
        (b"1 cat\n\xff\n", "cat", "UTF-8"),
        (b"1 cat\n1 dog\n", "cat", "names.txt"),
        (b"3 cat\n", "cat", "not numbered"),
        (b"0 background\n1 cat\n", "cat", "not numbered"),
        (None, "#cat", "would not be read back"),
        ("folder", "cat", "names.txt"),
    ],
)
def test_strokes_over_names_that_can_t_be_read_leave_all_as_it_was(tmp_path, names, name, said):
    listed = tmp_path / "names.txt"
    if names == "folder":
        listed.mkdir()
    elif names is not None:
        listed.write_bytes(names)
    with pytest.raises(FusionerError, match=said):
        save_strokes(tmp_path, [stroke(name, np.s_[:10])], {0: ("cat", np.zeros((*SIZE, 3), np.uint8))})
    assert not list(tmp_path.rglob("*.png"))
    assert names in (None, "folder") or listed.read_bytes() == names


def test_strokes_where_the_system_refuses(tmp_path):
    (tmp_path / "masks").write_text("a file")
    with pytest.raises(FusionerError, match="is a file, not a folder"):
        save_strokes(tmp_path, [stroke("cat", np.s_[:10])], {0: ("cat", np.zeros((*SIZE, 3), np.uint8))})
    assert not list(tmp_path.rglob("*.part"))


def test_what_the_segmenter_learns_elsewhere_changes_the_answer(taught):
    half = np.zeros(chelsea().shape[:2], dtype=bool)
    half[:, :200] = True
    state = InspectorState(taught, [chelsea()], names=["whiskers", "sofa"])
    before = state.view.coarse
    taught.learn("whiskers", [(chelsea(), half)])
    state.set_names(["whiskers", "sofa"])
    assert not torch.equal(state.view.coarse, before)
    taught.forget("whiskers")
    state.set_names(["whiskers", "sofa"])
    assert torch.equal(state.view.coarse, before)


def test_a_stroke_teaches_its_name_alone_and_is_taken_back(taught):
    state = InspectorState(taught, [chelsea()], names=["whiskers", "sofa"])
    before = state.view.coarse
    told = state.paint("brush", [(0.5, 0.2), (0.5, 0.3)], radius=0.05)
    once = state.view.coarse
    assert "overlay" in told and not torch.equal(once[0], before[0]) and torch.equal(once[1], before[1])
    assert state.segmenter.example_names == ("whiskers",) and taught.example_names == (), "the inspector's own copy"
    state.paint("box", [(0.1, 0.6), (0.4, 0.9)], radius=0.05)
    twice = state.view.coarse
    assert not torch.equal(twice, once)
    state.undo()
    torch.testing.assert_close(state.view.coarse, once, rtol=1e-4, atol=1e-4)
    # All that was painted is erased again: the model is the one that was given.
    state.paint("erase", [(0.5, 0.15), (0.5, 0.35)], radius=0.3)
    assert torch.equal(state.view.coarse, before) and marks(state.strokes, 0) == {}
    state.undo()
    state.undo()
    assert torch.equal(state.view.coarse, before)
    with pytest.raises(FusionerError, match="no stroke to take back"):
        state.undo()


def test_each_stroke_is_taken_back_to_what_was_there_before(taught):
    """Strokes of two names on two images, one of them over another, and an eraser: undo goes the same way back."""
    state = InspectorState(taught, [chelsea(), coffee()], names=["whiskers", "sofa"])
    seen = []
    for index, word, tool, points in (
        (0, "whiskers", "brush", [(0.5, 0.2), (0.5, 0.3)]),
        (0, "sofa", "box", [(0.1, 0.1), (0.6, 0.4)]),
        (0, "whiskers", "brush", [(0.7, 0.2), (0.7, 0.3)]),
        (1, "sofa", "brush", [(0.2, 0.2)]),
        (0, "whiskers", "erase", [(0.5, 0.2)]),
        (0, "whiskers", "brush", [(0.3, 0.8)]),
    ):
        if state.index != index:
            state.go(index)
        state.set_names(["whiskers", "sofa"])
        state.choose(word)
        seen.append((index, state.view.coarse))
        state.paint(tool, points, radius=0.05)
    for index, logits in reversed(seen):
        state.undo()
        if state.index != index:
            state.go(index)
        torch.testing.assert_close(state.view.coarse, logits, rtol=1e-4, atol=1e-4)


def test_an_enlarged_picture_keeps_strokes_and_cross(taught):
    state = InspectorState(taught, [chelsea()], names=["whiskers"])
    bare = draw_large(state, "overlay", longest=1600)
    state.click(100, 200)
    crossed = draw_large(state, "overlay", longest=1600)
    assert (crossed != bare).any(-1)[85:115, 185:215].any() and crossed.shape == state.photo.shape
    state.paint("box", [(0.5, 0.5), (0.9, 0.9)], radius=0.05)
    assert (draw_large(state, "overlay", longest=1600)[150:152, 230:400].std(axis=(0, 2)) > 0).any()


def test_painting_needs_an_image_a_name_and_a_model_that_learns(taught, make_segmenter):
    with pytest.raises(FusionerError, match="nothing to paint"):
        InspectorState(taught, [chelsea()]).paint("brush", [(0.5, 0.5)], radius=0.1)
    fixed = InspectorState(make_segmenter(), [chelsea()], names=["cat"])
    before = fixed.view.coarse
    with pytest.raises(FusionerError, match="can't learn from examples"):
        fixed.paint("brush", [(0.5, 0.5)], radius=0.1)
    assert fixed.strokes == () and torch.equal(fixed.view.coarse, before)


def test_the_widgets_paint_undo_and_save(taught, tmp_path, monkeypatch):
    app = inspect(taught, [chelsea()], names=["whiskers", "sofa"], folder=tmp_path)
    app.controls.tool.value = "brush"
    picture = app.pictures["overlay"]
    assert picture.tool == "brush" and "whiskers" in app.controls.message.value
    assert app.pictures["beside"].tool == "look", "a stroke on the second model's masks would teach the first"
    before, sent = app.maps.best, []
    monkeypatch.setattr(picture, "send", sent.append)
    picture._handle_custom_msg({"stroke": [[0.5, 0.2], [0.5, 0.3]]}, [])
    assert app.maps.best != before and app.maps.painted and len(app.state.strokes) == 1
    assert sent == [{"stroked": True}] and "without the strokes" in app.line
    share, said = app.state.learnt(), app.controls.message.value
    assert f"learnt “whiskers” from this stroke: {share:.0%} of its pixels" in said
    assert ("paint more of it" in said) == (share <= 0.5)
    app.controls.strokes.click()
    assert "saved 1 painted" in app.controls.message.value and len(read_folder(tmp_path / "strokes")) == 1
    with pytest.warns(FusionerWarning, match="one picture"):  # the command that is shown trains on it
        assert len(read_folder(tmp_path / "strokes", split="train")) == 1
    app.controls.undo.click()
    # The sigmoid of one thread and that of two may differ in the last bit.
    levels = [np.frombuffer(best, "<u2").astype(int) for best in (app.maps.best, before)]
    assert np.abs(np.subtract(*levels)).max() <= 1
    assert not app.maps.painted and "without the strokes" not in app.line
    app.controls.undo.click()
    assert "no stroke to take back" in app.controls.message.value
