"""The inspector's widgets: their values drive the state, errors are messages, and without a front end a PNG stays."""

import base64
import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from fusionerlib.errors import FusionerError
from fusionerlib.inspector import inspect, panels
from fusionerlib.inspector.export import export_image
from fusionerlib.inspector.page_maps import MAPS, answer_maps
from fusionerlib.inspector.state import PANELS
from fusionerlib.inspector.strokes import Stroke
from fusionerlib.inspector.widget import parsed
from fusionerlib.progress import FRONTENDS, HEADLESS
from tests.inspector.conftest import NAMES


@pytest.fixture
def app(segmenter, photo, labels, tmp_path):
    return inspect(segmenter, [photo, (photo[:, ::-1], labels, ("cat", "dog"))], names=NAMES, folder=tmp_path)


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv(HEADLESS, raising=False)
    monkeypatch.setenv(FRONTENDS[0], "any.ipynb")


def contents(app):
    assert app.controls
    return {key: panels.draw_panel(app.state, key)[0] for key in PANELS}


def changed(before, app):
    return {key for key, picture in contents(app).items() if not np.array_equal(picture, before[key])}


def upload(name, content):
    told = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    return ({**told, "last_modified": datetime(2026, 1, 1, tzinfo=UTC)},)


def test_every_control_sets_the_state_and_its_panels(app):
    state, controls = app.state, app.controls
    for widget, value, attribute, expected, redrawn in (
        (controls.threshold, 0.7, "threshold", 0.7, {"overlay", "probability", "argmax"}),
        (controls.opacity, 0.9, "opacity", 0.9, {"overlay"}),
        (controls.temperature, 4.0, "temperature", 4.0, {"overlay", "probability", "argmax"}),
        (controls.word, "sky", "word", "sky", {"probability", "attention"}),
        (controls.layer, 2, "layer", 1, {"attention"}),
        (controls.names, "dog,  wall ,", "names", ("dog", "wall"), {"overlay", "probability", "argmax", "attention"}),
        (controls.image, 1, "names", ("cat", "dog"), set(PANELS) - {"similarity", "beside", "difference"}),
    ):
        before = contents(app)
        widget.value = value
        assert getattr(state, attribute) == expected
        assert changed(before, app) == redrawn, widget.description
    assert controls.names.value == "cat, dog" and controls.word.options == ("cat", "dog")
    controls.next.click()
    assert state.index == 0 and controls.image.value == 0


def test_the_answer_is_prepared_while_names_are_typed(app):
    controls, before = app.controls, contents(app)
    passes = []
    handle = app.state.segmenter.model.register_forward_hook(lambda *_: passes.append(1))
    app.pictures["overlay"]._handle_custom_msg({"typing": "cat, wal"}, [])
    app.pictures["overlay"]._handle_custom_msg({"typing": "cat, cat"}, [])  # half a text may be wrong
    assert len(passes) == 1 and changed(before, app) == set() and "alert" not in controls.message.value
    sent = app.maps.prepared
    assert sent["text"] == "cat, wal"
    controls.names.value = "cat, wal"
    assert len(passes) == 1 and app.state.names == ("cat", "wal")
    assert sent["maps"] == answer_maps(app.state) and all(
        getattr(app.maps, name) == sent["maps"][name] for name in MAPS
    )
    assert app.maps.prepared == {}, "it is of the names before"
    handle.remove()


def test_notes_on_names_stand_where_messages_stand(app):
    app.controls.names.value = "a photo of a cat, dog"
    assert "&#x27;a photo of a cat&#x27; is asked as &#x27;cat&#x27;" in app.controls.message.value
    app.controls.names.value = "cat, Cats"
    assert (
        'role="alert"' in app.controls.message.value
        and "are the same to the text encoder" in app.controls.message.value
    )
    assert app.state.names == ("a photo of a cat", "dog"), "what can't be asked changes nothing"
    app.controls.names.value = "zebra, dog"
    assert app.state.notes == () and "&nbsp;" in app.controls.message.value


def test_typed_names_that_another_image_replaces_are_told(app):
    said = app.controls.message
    app.controls.names.value = "cat, door"
    app.controls.next.click()
    assert app.state.names == ("cat", "dog") and "instead of: cat, door" in said.value
    app.controls.next.click()
    assert app.state.names == ("cat", "dog") and "instead" not in said.value, "an image without names keeps them"
    app.controls.names.value = "wall"
    app.controls.image.value = 1
    assert "instead of: wall" in said.value


def test_a_panorama_that_is_squeezed_is_told(make_segmenter, photo):
    wide = np.concatenate([photo, photo[:, ::-1]], axis=1)
    for segmenter, told in ((make_segmenter(), 1), (make_segmenter(stride=48), 0), (make_segmenter(size=None), 0)):
        app = inspect(segmenter, [photo, wide], names=["cat"])
        assert app.state.notes == ()
        app.controls.next.click()
        assert len(app.state.notes) == told and ("sliding=True" in app.controls.message.value) == told
        assert not told or "400 x 120 pixels" in app.state.notes[0]


def test_names_with_masks_are_suggested_and_added(make_segmenter, photo):
    app = inspect(make_segmenter(trained_names=("dog", "cat", "tv")), [photo], names=["Cats"])
    assert app.controls.add.options == ("dog", "tv")
    app.controls.add.value = "tv"
    assert app.state.names == ("Cats", "tv") and app.controls.names.value == "Cats, tv"
    assert app.controls.add.value == "" and app.controls.add.options == ("dog",)


def test_switches_ask_and_leave_out(app):
    app.controls.switches[1].value = False
    assert app.state.on == ("cat", "sky") and app.controls.word.options == ("cat", "sky")
    assert [switch.description for switch in app.controls.switches] == list(NAMES)
    app.controls.names.value = "cat, grass, door, sky"
    assert app.state.on == ("cat", "door", "sky"), "what was switched off stays off"
    assert [switch.value for switch in app.controls.switches] == [True, False, True, True]
    app.controls.names.value = "wall"
    assert len(app.controls.switches) == 1


def test_clicks_and_arrow_keys_choose_a_pixel(app):
    before = contents(app)
    app.pictures["argmax"]._handle_custom_msg({"click": [0.5, 0.255]}, [])
    assert app.state.pixel == (60, 51)
    assert changed(before, app) == {"overlay", "similarity"}
    assert "row 60, column 51" in app.controls.heading.value
    numbers = dict(panels.pixel_probabilities(app.state))
    for line, name in zip(app.controls._lines, NAMES, strict=True):
        assert f"{numbers[name]:.3f}" in line.number.value
    app.pictures["overlay"]._handle_custom_msg({"move": [-1, 0]}, [])
    app.pictures["overlay"]._handle_custom_msg({"move": [0, 1]}, [])
    assert app.state.pixel == (58, 55)
    app.pictures["overlay"]._handle_custom_msg({"click": [1.0, 1.0]}, [])
    assert app.state.pixel == (119, 199)


def test_mistakes_are_messages(app):
    controls, before = app.controls, contents(app)
    for text, told in (("cat, cat", "given twice"), ("x" * 300, "300 characters")):
        controls.names.value = text
        assert told in controls.message.value and 'role="alert"' in controls.message.value
        assert app.state.names == NAMES and controls.names.value == text, "the text is there to be mended"
    controls.upload.value = upload("notes.png", b"no image at all")
    assert "&#x27;notes.png&#x27; can&#x27;t be read" in controls.message.value and controls.upload.value == ()
    assert changed(before, app) == set()
    controls.threshold.value = 0.6
    assert "alert" not in controls.message.value


def test_typed_names_are_text_and_no_markup(app):
    app.controls.names.value = "<img src=x onerror=alert(1)>, cat"
    app.pictures["overlay"]._handle_custom_msg({"click": [0.5, 0.5]}, [])
    markup = app.controls.line.value + "".join(line.number.value for line in app.controls._lines)
    assert "<img src=x" not in markup and "&lt;img src=x" in markup
    assert parsed(" a,b c,,\nd ") == ["a", "b c", "d"]


def test_an_uploaded_photo_is_shown(segmenter, photo):
    app, stream = inspect(segmenter), io.BytesIO()
    assert "none yet" in str(app.controls.image.options)
    app.controls.next.click()
    assert "no image" in app.controls.message.value
    app.controls.names.value = "cat"
    Image.fromarray(photo).save(stream, "PNG")
    app.controls.upload.value = upload("mine.png", stream.getvalue())
    assert app.state.case.title == "mine.png" and app.state.answer.names == ("cat",)
    np.testing.assert_array_equal(app.state.photo, photo)
    assert app.controls.image.options == (("mine.png", 0),) and app.controls.upload.value == ()


def test_saving_never_overwrites(app, tmp_path):
    for number in (1, 2):
        app.controls.export.click()
        assert f"inspector-{number}.png" in app.controls.message.value
    with Image.open(tmp_path / "inspector-1.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(export_image(app.state)))


def test_masks_are_saved_as_indices_with_their_names(app, tmp_path):
    for number in (1, 2):
        app.controls.masks.click()
        assert f"masks-{number}.png" in app.controls.message.value
    with Image.open(tmp_path / "masks-1.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), app.state.answer.labels)
    assert (tmp_path / "masks-1.names.txt").read_text() == "".join(
        f"{number} {name}\n" for number, name in enumerate(app.state.on, start=1)
    )
    app.controls.names.value = ""
    app.controls.masks.click()
    assert "no masks to save" in app.controls.message.value and not (tmp_path / "masks-3.png").exists()


def test_without_a_front_end_a_png_stays(app, monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    left = app._repr_mimebundle_()
    assert set(left) == {"image/png", "text/plain"} and "controls" not in vars(app)
    with Image.open(io.BytesIO(base64.b64decode(left["image/png"]))) as still:
        np.testing.assert_array_equal(np.asarray(still), np.asarray(export_image(app.state)))


def test_with_a_front_end_the_still_is_an_output_of_its_own(app, live, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda one, **given: shown.append((one, given)))
    app._ipython_display_()
    (box, _), (still, given) = shown
    assert box is app.controls.box and set(still) == {"image/png", "text/plain"} and given == {"raw": True}
    monkeypatch.setenv(HEADLESS, "1")
    app._ipython_display_()
    assert len(shown) == 3 and set(shown[2][0]) == {"image/png", "text/plain"}


def test_pictures_are_made_with_their_content_and_send_it_again_when_asked(app, monkeypatch):
    pictures = app.pictures
    assert all(picture.title and bool(picture.content) != bool(picture.kind) for picture in pictures.values())
    assert [key for key, picture in pictures.items() if picture.kind] == ["overlay", "probability", "argmax"]
    sent = []
    picture = pictures["overlay"]
    monkeypatch.setattr(picture, "send_state", sent.append)
    monkeypatch.setattr(app.maps, "send_state", lambda: sent.append("maps"))
    picture._handle_custom_msg({"ask": True}, [])
    assert sent == [["kind", "content", "media", "title", "caption", "there"]]
    picture._handle_custom_msg({"ask": "maps"}, [])
    assert sent[2:] == ["maps"]


def numbers(app, name):
    found = np.frombuffer(getattr(app.maps, name), np.uint16)
    return found.reshape(app.maps.size) if len(found) else None


def test_the_maps_are_those_of_the_answer(app):
    """What the page decides from them is what the state decides, at every threshold of the slider."""
    state = app.state
    for index in (0, 1):
        app.controls.image.value = index
        app.controls.switches[0].value = False
        assert app.maps.photo == state.small.tobytes() and len(app.maps.styles) == len(state.names)
        for step in range(0, 101, 5):
            app.controls.threshold.value = step / 100
            above = numbers(app, "best") > int(state.threshold * 65535)
            expected = panels.all_names(state, panels.predicted(state))
            assert (np.where(above, numbers(app, "winner"), 0) == expected).mean() > 0.9995
        np.testing.assert_allclose(numbers(app, "value") / 65535, state.probability(), atol=2e-5)
        truth = numbers(app, "truth")
        assert (truth is None) == (index == 0)
        app.controls.switches[0].value = True
    truth, asked = numbers(app, "truth"), panels.truth(state)
    np.testing.assert_array_equal(np.where(truth == 65535, 255, truth), asked)
    assert numbers(app, "second") is None and numbers(app, "painted") is None


def test_a_slider_sends_no_map_and_a_word_only_its_own(app, monkeypatch):
    sent, controls = [], app.controls
    monkeypatch.setattr(app.maps, "send_state", lambda key=None: sent.append(set(key or ())))

    def told(widget, value):
        sent.clear()
        widget.value = value
        return set().union(*sent)

    assert told(controls.threshold, 0.8) == told(controls.opacity, 0.3) == set()
    assert told(controls.word, "sky") == {"value"}
    assert told(controls.temperature, 2.0) == {"best", "value"}
    sent.clear()
    app.pictures["overlay"]._handle_custom_msg({"click": [0.5, 0.5]}, [])
    assert set().union(*sent) == {"pixel"}
    # The photo and its hatches are sent again with another image alone.
    assert told(controls.names, "dog") == {"best", "winner", "value", "styles"}
    assert {"photo", "truth"} <= told(controls.image, 1)


def test_strokes_and_a_second_model_are_maps_too(make_segmenter, segmenter, photo):
    app = inspect([segmenter, make_segmenter("late")], [photo], names=NAMES, threshold=0.3)
    assert app.controls
    np.testing.assert_array_equal(numbers(app, "second"), app.state.beside_view.labels)
    assert {"beside", "difference"} <= {key for key, picture in app.pictures.items() if picture.kind}
    marked = np.zeros(photo.shape[:2], dtype=bool)
    marked[10:50, 20:90] = True
    app.state.strokes = (Stroke(0, "cat", marked), Stroke(0, "gone", ~marked))
    app._follow(app.controls, frozenset({"overlay"}))
    painted = numbers(app, "painted")
    assert set(np.unique(painted)) == {1, 2} and ((painted == 1).mean() - marked.mean()) ** 2 < 1e-4


def test_a_panel_with_nothing_to_show_is_not_there(app):
    there = {key: picture.there for key, picture in app.pictures.items()}
    assert [key for key, is_there in there.items() if not is_there] == ["truth", "error", "beside", "difference"]
    app.controls.image.value = 1
    assert app.pictures["truth"].there and app.pictures["error"].there


def test_two_models_and_two_thresholds_are_compared(make_segmenter, segmenter, photo):
    other = make_segmenter("late")
    app = inspect([segmenter, other], [photo], names=NAMES, threshold=0.3)
    assert all(app.pictures[key].there for key in ("beside", "difference"))
    size = app.state.small.shape[:2]
    first = app.state.view.labels
    second = other.set_image(photo, answer_size=size).segment(NAMES).at(0.3).labels
    np.testing.assert_array_equal(app.state.beside_view.labels, second)
    shares = [((first == 0) & (second > 0)).mean(), ((first > 0) & (second == 0)).mean()]
    told = app.pictures["difference"].caption
    assert [f"{share:.0%}" for share in shares] == [
        told.split(f"{side} only")[1].split()[2].strip(",") for side in ("second", "first")
    ]
    app.controls.threshold.value = 0.9
    assert app.pictures["difference"].caption != told
    same = inspect(segmenter, [photo], names=NAMES, threshold=0.3, beside_threshold=0.7)
    assert same.state.beside_view.labels.astype(bool).sum() < same.state.view.labels.astype(bool).sum()
    app.state.click(60, 50)
    app._follow(app.controls, frozenset({"pixel"}))
    first, second = (dict(panels.pixel_probabilities(app.state, second=other)) for other in (False, True))
    assert first != second and "first / second model" in app.controls.heading.value
    for line, name in zip(app.controls._lines, NAMES, strict=False):
        assert f"{second[name]:.3f}" in line.number.value and f"{first[name]:.3f}" in line.number.value
    assert export_image(app.state).width < 2000


def test_what_is_no_segmenter_is_named(segmenter, photo):
    for given, told in (
        ([segmenter] * 3, "3 segmenters"),
        ([], "0 segmenters"),
        ("packaged", r"load it, by Segmenter.load\('packaged'\)"),
        ([segmenter, "demo"], "of type str"),
        (3, "of type int"),
    ):
        with pytest.raises(FusionerError, match=told):
            inspect(given, [photo])


def test_an_enlarged_picture_has_the_photo_s_pixels(app, monkeypatch):
    sent = []
    picture = app.pictures["overlay"]
    monkeypatch.setattr(picture, "send", lambda message, buffers: sent.append((message, buffers)))
    app.state.add(np.tile(app.state.photo, (10, 20, 1)), title="large")
    picture._handle_custom_msg({"enlarge": True}, [])
    ((message, (content,)),) = sent
    with Image.open(io.BytesIO(content)) as large:
        assert large.size == (1600, 480) and message == {"large": "image/jpeg"}


def test_a_panorama_keeps_its_pixels_and_the_best_name_stands_first(app):
    app.state.add(np.tile(app.state.photo, (1, 6, 1)), title="panorama")
    height, width = app.state.small.shape[:2]
    assert width > 900 and height * width <= 400 * 300 * 1.01
    app.state.click(60, 50)
    app._follow(app.controls, frozenset({"pixel"}))
    values = dict(panels.pixel_probabilities(app.state))
    lines = sorted(zip(app.controls._lines, NAMES, strict=False), key=lambda row: int(row[0].box.layout.order))
    assert [name for _, name in lines] == sorted(NAMES, key=lambda name: -values[name])
    assert export_image(app.state).width < 2000


def test_sizes_do_not_depend_on_what_is_shown(app):
    def sizes(widget):
        own = [(widget.layout.width, widget.layout.height)] if hasattr(widget, "layout") else []
        return own + [size for child in getattr(widget, "children", ()) for size in sizes(child)]

    operated, message, _pictures, line = app.controls.box.children
    rest = [operated, message, line]
    before = [sizes(child) for child in rest]
    app.controls.names.value = "one, two, three, four, five, six, seven, eight, nine, ten"
    app.controls.threshold.value = 0.9
    assert [sizes(child) for child in rest] == before
    assert app.controls._list.layout.height == "225px" and "auto" in app.controls._list.layout.overflow


def test_every_control_has_a_label(app):
    def walk(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    operable = [widget for widget in walk(app.controls.box) if hasattr(widget, "description")]
    named = [widget for widget in operable if type(widget).__name__ != "HTML"]
    assert len(named) > 12 and all(widget.description for widget in named)
