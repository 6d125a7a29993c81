"""The mask inspector in a notebook: widgets connected to an ``InspectorState``.

``inspect(segmenter, images)`` at the end of a cell displays it; a headless run gets a PNG instead.
"""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from fusionerlib.devices import one_core_free
from fusionerlib.errors import FusionerError
from fusionerlib.files import write_bytes
from fusionerlib.images import open_image
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.inspector.controls import Controls, picture_widget, share_slider
from fusionerlib.inspector.export import (
    encode_panel,
    encoded_message,
    enlarged,
    export_png,
    parameter_line,
    table_title,
)
from fusionerlib.inspector.page_maps import DRAWN_BY_PAGE, answer_maps, page_maps, page_maps_widget
from fusionerlib.inspector.panels import panel, pixel_probabilities, title
from fusionerlib.inspector.state import PANELS, Changed, InspectorState
from fusionerlib.inspector.strokes import Point
from fusionerlib.progress import headless

OPTIONAL = ("truth", "error", "attention", "beside", "difference")
"""Panels that are not there where they have nothing to show."""
STEPS = 50
"""Number of arrow key presses from one edge of the image to the other."""
NOTHING: Changed = frozenset()


def inspect(
    segmenter: Any,
    images: Any = (),
    *,
    names: Sequence[str] = (),
    folder: Path | str = ".",
    **settings: Any,
) -> "Inspector":
    """Inspect the masks of ``images``: paths, Pillow images, arrays, scenes, or (image, labels, names) triples.

    segmenter: a ``Segmenter``, or a list of two to be compared: the masks of the second are shown beside those of the
    first, with a map of where they differ. For one segmenter at two thresholds give ``beside_threshold``.
    names: the names to ask first. folder: where "Save as PNG" and "Save masks" write. settings: the other parameters of
    ``InspectorState``: threshold, opacity, temperature, off, image, word, layer, pixel.
    Raises FusionerError for what is no segmenter, and for images, names or settings out of range.
    """
    if isinstance(segmenter, str | Path):
        raise FusionerError(f"segmenter is {str(segmenter)!r}: load it, by Segmenter.load({str(segmenter)!r})")
    given = list(segmenter) if isinstance(segmenter, list | tuple) else [segmenter]
    if wrong := [type(one).__name__ for one in given if not isinstance(one, Segmenter)]:
        raise FusionerError(f"a segmenter is of type {wrong[0]}: pass Segmenter.load(...), or a list of two of them")
    if not 0 < len(given) <= 2:
        raise FusionerError(f"{len(given)} segmenters: the inspector shows one, or compares two")
    first, *others = given
    beside: dict[str, Any] = {"beside": others[0]} if others else {}
    return Inspector(InspectorState(first, images, names=names, **beside, **settings), folder=folder)


class Inspector:
    """The widgets of ``state``, created when they are first displayed or accessed. folder: see ``inspect``."""

    def __init__(self, state: InspectorState, *, folder: Path | str = ".") -> None:
        self.state, self.folder = state, Path(folder)
        self._following = False

    @cached_property
    def maps(self) -> Any:
        """The widget from which the page draws panels by itself, with the sliders that it follows."""
        return page_maps_widget(
            self.state,
            threshold=share_slider("Threshold", value=self.state.threshold, step=0.01),
            opacity=share_slider("Opacity", value=self.state.opacity, step=0.05),
        )

    @cached_property
    def pictures(self) -> dict[str, Any]:
        """The widget of each panel, created with its content, so that a front end never has an empty one."""
        asked: dict[str, Any] = {"on_place": self._place, "on_move": self._move, "on_stroke": self._paint}
        asked["on_typing"] = self._prepare
        return {
            key: picture_widget(
                maps=self.maps, **asked, on_enlarge=partial(enlarged, self.state, key), **self._shown(key)
            )
            for key in PANELS
        }

    @cached_property
    def controls(self) -> Controls:
        """The controls, connected to the state."""
        state = self.state
        controls = Controls(
            pictures=list(self.pictures.values()),
            threshold=self.maps.threshold,
            opacity=self.maps.opacity,
            on_switch=self._switch,
        )
        for widget, operation in (
            (controls.image, lambda index: self._walk(lambda: state.go(index))),
            (controls.names, lambda text: state.set_names(parsed(text), off=tuple(state.off))),
            (controls.word, state.choose),
            (controls.threshold, state.set_threshold),
            (controls.opacity, state.set_opacity),
            (controls.temperature, state.set_temperature),
            (controls.layer, lambda layer: state.set_layer(layer - 1)),
        ):
            widget.observe(partial(self._observed, operation), names="value")
        controls.add.observe(self._added, names="value")
        controls.upload.observe(self._uploaded, names="value")
        controls.previous.on_click(lambda _: self._do(lambda: self._walk(lambda: state.step(-1))))
        controls.next.on_click(lambda _: self._do(lambda: self._walk(lambda: state.step(1))))
        controls.export.on_click(lambda _: self._do(self._saved))
        controls.undo.on_click(lambda _: self._do(state.undo))
        controls.strokes.on_click(lambda _: self._do(self._saved_strokes))
        for name, widget in (("tool", controls.tool), ("radius", controls.radius)):
            widget.observe(partial(self._set_tool, name), names="value")
        controls.masks.on_click(lambda _: self._do(self._saved_masks))
        self._follow(controls, frozenset({"pixel"}))  # the pictures are drawn already
        controls.say("Click a picture, or press an arrow key on it, to look at one pixel.")
        return controls

    @property
    def line(self) -> str:
        """The line of Python that reproduces the state."""
        return parameter_line(self.state)

    def png(self) -> bytes:
        """All panels as one PNG file."""
        return export_png(self.state)

    def save(self, path: Path | str) -> Path:
        """Write ``png`` to ``path`` and create the folder; returns the path."""
        path = Path(path)
        write_bytes(path, self.png())
        return path

    def _ipython_display_(self) -> None:
        """The widgets, unless the run is headless, and a PNG as an output of its own.

        A front end prefers the widget to a PNG in the same output, and shows "Loading widget..." without a kernel.
        """
        from IPython.display import display

        if not headless():
            display(self.controls.box)
        display(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The PNG, for pages and readers without widgets, and the parameter line as its text."""
        return {"text/plain": self.line, "image/png": base64.b64encode(self.png()).decode()}

    def _do(self, operation: Callable[[], Changed]) -> None:
        """Run ``operation`` and update what it changed; show an error as a message."""
        if self._following:
            return
        self.controls.say("")
        changed = NOTHING
        with one_core_free():
            try:
                changed = operation()
            except FusionerError as error:
                self.controls.say(str(error), bad=True)
            # The traceback of a callback would only go to the log of the kernel.
            except Exception as error:
                self.controls.say(f"{type(error).__name__}: {error}", bad=True)
            self._follow(self.controls, changed)

    def _observed(self, operation: Callable[[Any], Changed], change: dict[str, Any]) -> None:
        self._do(lambda: operation(change["new"]))

    def _prepare(self, text: str) -> None:
        """Send the page the answer for the names that are being typed; at Enter it draws it without the kernel."""
        with one_core_free(), suppress(FusionerError):  # half a text may be wrong: Enter tells
            self.maps.prepared = {"text": text, "maps": answer_maps(self.state.asking(parsed(text)))}

    def _walk(self, operation: Callable[[], Changed]) -> Changed:
        """Show another image by ``operation``; where its own names take the place of typed ones, say so."""
        before, case = self.state.names, self.state.case
        changed = operation()
        if before and before != self.state.names and (case is None or tuple(case.names) != before):
            asked = ", ".join(before)
            self.controls.say(f"This image comes with names of its own, which are asked now instead of: {asked}")
        return changed

    def _switch(self, place: int, on: bool) -> None:
        self._do(lambda: self.state.toggle(self.state.names[place], on))

    def _place(self, down: float, right: float) -> None:
        height, width = self.state.photo.shape[:2]
        self._do(lambda: self.state.click(int(down * height), int(right * width)))

    def _move(self, down: int, right: int) -> None:
        height, width = self.state.photo.shape[:2]
        row, column = self.state.pixel or (height // 2, width // 2)
        self._do(
            lambda: self.state.click(row + down * max(1, height // STEPS), column + right * max(1, width // STEPS))
        )

    def _added(self, change: dict[str, Any]) -> None:
        if name := change["new"].strip():
            self._do(lambda: self.state.add_name(name))
            self.controls.add.value = ""

    def _set_tool(self, name: str, change: dict[str, Any]) -> None:
        for key, picture in self.pictures.items():
            if key not in ("beside", "difference"):  # a stroke teaches the first model
                setattr(picture, name, change["new"])
        tool = self.controls.tool.value
        told = {"brush": "paint", "box": "draw a box round", "erase": "erase strokes of"}.get(tool, "")
        self.controls.say(f"{told} “{self.state.word}”; choose another name with “Look at”" if told else "")

    def _paint(self, points: list[Point]) -> None:
        tool, radius = self.controls.tool.value, self.controls.radius.value
        before = len(self.state.strokes)
        self._do(lambda: self.state.paint(tool, points, radius=radius))
        if len(self.state.strokes) > before and tool != "erase":
            share, word = self.state.learnt(), self.state.word
            more = "" if share > 0.5 else "; paint more of it, or lower the threshold"
            self.controls.say(f"learnt “{word}” from this stroke: {share:.0%} of its pixels now have that name{more}")

    def _saved_strokes(self) -> Changed:
        folder = self.folder / "strokes"
        count = self.state.save_strokes(folder)
        command = f"fusioner train --init packaged -o my-model --set dataset=folder --set root={folder}"
        self.controls.say(f"saved {count} painted images as a data set in {folder}: {command}")
        return NOTHING

    def _uploaded(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        file = change["new"][0]
        self._do(lambda: self.state.add(opened(file["name"], file["content"]), title=file["name"]))
        # Cleared, so that the same file can be uploaded again.
        self.controls.upload.value = ()

    def _saved(self) -> Changed:
        number = next(n for n in range(1, 10**6) if not (self.folder / f"inspector-{n}.png").exists())
        path = self.save(self.folder / f"inspector-{number}.png")
        self.controls.say(f"saved {path}")
        return NOTHING

    def _saved_masks(self) -> Changed:
        answer = self.state.answer
        if answer is None:
            raise FusionerError("there are no masks to save: pick an image and write names first")
        number = next(n for n in range(1, 10**6) if not (self.folder / f"masks-{n}.png").exists())
        answer.save(self.folder / f"masks-{number}.png")
        self.controls.say(f"saved {self.folder / f'masks-{number}.png'} (indices), and masks-{number}.names.txt")
        return NOTHING

    def _follow(self, controls: Controls, changed: Changed) -> None:
        """Update the maps, the changed pictures, and all controls, from the state."""
        if changed:
            _set(self.maps, {**page_maps(self.state), "prepared": {}})
        for key in PANELS:
            if key in changed:
                _set(self.pictures[key], self._shown(key))
        with self._quiet():
            _follow_state(controls, self.state, typed=not changed)

    def _shown(self, key: str) -> dict[str, Any]:
        """The traits of the picture ``key``. A panel without labels or attention to show is not there."""
        found = panel(self.state, key)
        there = bool(found.caption) or key not in OPTIONAL
        words: dict[str, Any] = {"title": title(self.state, key), "caption": found.caption, "there": there}
        if found.caption and key in DRAWN_BY_PAGE:
            return {**words, "kind": key, "content": b""}
        picture = found.draw()
        drawn = encode_panel(picture, key) if found.caption else encoded_message(picture.tobytes(), picture.shape)
        return {**words, "kind": "", "content": drawn[0], "media": drawn[1]}

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Context manager in which changes of the controls do not change the state."""
        self._following = True
        try:
            yield
        finally:
            self._following = False


def parsed(text: str) -> list[str]:
    """The names in ``text``, separated by commas or line breaks."""
    return [name for part in text.replace("\n", ",").split(",") if (name := part.strip())]


def opened(name: str, content: Any) -> Image.Image:
    """An uploaded file as an image. Raises FusionerError with the file's name where it is no image."""
    try:
        image = open_image(io.BytesIO(bytes(content)), repr(name))
        image.load()
    except FusionerError:
        raise
    # Pillow's readers raise many kinds of errors on a broken file.
    except Exception as error:
        reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise FusionerError(f"{name!r} can't be read as an image ({reason}): upload a JPEG or PNG") from error
    return image


def _follow_state(controls: Controls, state: InspectorState, *, typed: bool) -> None:
    """Set the controls from ``state``. typed: keep the text of the names, so that an error in it can be corrected."""
    images = [(case.title, place) for place, case in enumerate(state.cases)] or [("none yet", -1)]
    _offer(controls.image, images, state.index)
    _offer(controls.word, list(state.on), state.word or None)
    if not typed and parsed(controls.names.value) != list(state.names):
        controls.names.value = ", ".join(state.names)
    if controls.add.options != (known := state.suggestions):
        controls.add.options = known
    controls.tell(state.notes)
    controls.threshold.value, controls.opacity.value = state.threshold, state.opacity
    controls.temperature.value = state.temperature
    controls.layer.max = max(1, state.layers)
    controls.layer.value, controls.layer.disabled = min(state.layer, controls.layer.max - 1) + 1, state.layers < 2
    values = dict(pixel_probabilities(state))
    rows = [(name, name not in state.off, values.get(name)) for name in state.names]
    second = dict(pixel_probabilities(state, second=True)) if state.compares_models else {}
    controls.list_names(rows, heading=table_title(state), second=second)
    controls.write_line(parameter_line(state))


def _set(widget: Any, traits: dict[str, Any]) -> None:
    """Set ``traits`` of ``widget`` in one message, which holds those that changed."""
    with widget.hold_sync():
        for name, value in traits.items():
            setattr(widget, name, value)


def _offer(chooser: Any, options: list[Any], value: Any) -> None:
    """Set the options and the value of a drop-down list. Only changes are set, because setting closes an open list."""
    if list(chooser.options) != options:
        chooser.options = options
    if chooser.value != value:
        chooser.value = value
