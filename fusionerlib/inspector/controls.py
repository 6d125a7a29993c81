"""The widgets of the inspector: labelled controls of fixed size, and pictures that report clicks and arrow keys."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fusionerlib.inspector.drawing import swatch
from fusionerlib.inspector.export import encode_panel
from fusionerlib.inspector.strokes import TOOLS, Point

FOLDER = Path(__file__).parent
LISTED = 40
"""Most names in the list of switches; further names are asked but not listed."""
CELL = "268px"
"""Least width of a column of panels and controls; columns grow with the window."""
WIDE = "fusioner-wide"
"""Class of a control that is two columns wide, where there are two."""
LABEL = "84px"
"""Width of the labels in front of the controls."""


@dataclass(frozen=True)
class NameLine:
    """The line of a name: its switch, and its probability at the clicked pixel."""

    box: Any
    switch: Any
    number: Any


class Controls:
    """Labelled ipywidgets; ``box`` holds them together with ``pictures``. ``Inspector`` connects them to its state.

    threshold, opacity: sliders of ``share_slider``. on_switch: called with the index of a name and whether it is to be
    asked.
    """

    def __init__(
        self, *, pictures: Sequence[Any], threshold: Any, opacity: Any, on_switch: Callable[[int, bool], None]
    ) -> None:
        import ipywidgets as w

        self._on_switch = on_switch
        self._lines: list[NameLine] = []
        self._said = ""
        self._notes: tuple[str, ...] = ()
        self.image = w.Dropdown(description="Image", options=[("none yet", -1)], **_sized())
        self.previous, self.next = _button("◀ Back"), _button("Next ▶")
        self.upload = w.FileUpload(accept="image/*", description="Upload", layout=_filling())
        self.export, self.masks = _button("Save as PNG"), _button("Save masks")
        self.names = w.Text(description="Names", continuous_update=False, **_sized())
        self.names.placeholder = "cat, sofa, window  (then Enter)"
        self.add = w.Combobox(description="Add", continuous_update=False, **_sized())
        self.add.placeholder, self.add.tooltip = "a name with masks", "names that the model was trained on"
        self.word = w.Dropdown(description="Look at", **_sized())
        self.threshold, self.opacity = threshold, opacity
        self.temperature = w.FloatLogSlider(
            description="Temperature", base=2, min=-3, max=3, step=0.1, readout_format=".2f", **_sized()
        )
        self.temperature.tooltip = "the logits are divided by it; 1 is as trained"
        self.layer = w.IntSlider(description="Layer", min=1, max=1, **_sized())
        self.layer.tooltip = "the transformer block whose attention is shown"
        self.tool = w.ToggleButtons(description="Tool", options=list(TOOLS.items()), **_sized())
        self.tool.style.button_width = "auto"
        self.radius = w.FloatSlider(
            description="Brush size", value=0.02, min=0.005, max=0.15, step=0.005, readout_format=".3f", **_sized()
        )
        self.undo, self.strokes = _button("Undo stroke"), _button("Save strokes")
        self.message, self.line, self.heading = w.HTML(), w.HTML(layout=w.Layout(width="100%")), w.HTML()
        self._list = w.VBox(layout=w.Layout(height="225px", width="100%", overflow="hidden auto"))
        listed = w.VBox([self.heading, self._list], layout=w.Layout(width="100%", height="255px"))
        # The list of names, which is the legend of the masks, stands in the first row.
        cells = [*pictures[:3], listed, *pictures[3:]]
        bars = (
            *(self.image, _row(self.previous, self.next, self.upload), _row(self.export, self.masks)),
            *(self.names, self.add, self.word),
            *(self.threshold, self.opacity, self.temperature, self.layer),
            *(self.tool, self.radius, _row(self.undo, self.strokes)),
        )
        for control in (self.image, self.names, self.tool):
            control.add_class(WIDE)
        self.names.add_class("fusioner-names")  # picture.js sends what is being typed there
        self.box = w.VBox([_grid(bars, "0 12px"), self.message, _grid(cells, "8px 12px"), self.line])
        self.box.layout.width = "100%"
        self.box.add_class("fusioner-inspector")

    @property
    def switches(self) -> list[Any]:
        """The check boxes of the names, in the order of the names."""
        return [line.switch for line in self._lines[: len(self._list.children)]]

    def list_names(
        self, rows: Sequence[tuple[str, bool, float | None]], *, heading: str, second: Mapping[str, float]
    ) -> None:
        """Show one line for each (name, asked or not, probability at the clicked pixel or None), with its swatch.

        The highest probability comes first; without a clicked pixel names stand in their order. second: by name the
        probability of a second model.
        """
        rows = rows[:LISTED]
        while len(self._lines) < len(rows):
            self._lines.append(self._new_line(len(self._lines)))
        best = max((value for _, _, value in rows if value is not None), default=None)
        ranked = sorted(range(len(rows)), key=lambda place: -(rows[place][2] or 0.0))
        for rank, place in enumerate(ranked):  # lines keep their widgets, so that a list that is scrolled stands still
            self._lines[place].box.layout.order = str(rank)
        for line, (name, on, value) in zip(self._lines, rows, strict=False):
            line.switch.description, line.switch.tooltip, line.switch.value = name, name, on
            line.number.value = (
                "" if value is None else _meter(value, name=name, best=value == best, second=second.get(name))
            )
        boxes = tuple(line.box for line in self._lines[: len(rows)])
        if self._list.children != boxes:
            self._list.children = boxes
        self.heading.value = f'<div class="fusioner-words"><b>{html.escape(heading)}</b></div>'

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show a message below the controls, as an alert where ``bad``; an empty one leaves its space to the notes."""
        self._said = text
        kind, role = ("bad", "alert") if bad else ("", "status")
        shown = html.escape(text) or "<br>".join(map(html.escape, self._notes)) or "&nbsp;"
        self.message.value = f'<div role="{role}" class="fusioner-words fusioner-message {kind}">{shown}</div>'

    def tell(self, notes: Sequence[str]) -> None:
        """What is to be said of the names: it stands where messages stand, while there is none."""
        if tuple(notes) != self._notes:
            self._notes = tuple(notes)
            if not self._said:
                self.say("")

    def write_line(self, line: str) -> None:
        """Show the parameter line, to be copied."""
        shown = f'<div class="fusioner-line" tabindex="0" aria-label="parameter line">{html.escape(line)}</div>'
        self.line.value = shown

    def _new_line(self, place: int) -> NameLine:
        import ipywidgets as w

        switch = w.Checkbox(indent=False, layout=w.Layout(width="118px"))
        switch.observe(lambda change: self._on_switch(place, change["new"]), names="value")
        number = w.HTML(layout=w.Layout(width="112px"))
        picture = w.HTML(_swatch_html(place), layout=w.Layout(width="26px"))
        box = w.HBox([picture, switch, number], layout=w.Layout(height="32px", overflow="hidden", flex="0 0 auto"))
        return NameLine(box=box, switch=switch, number=number)


def share_slider(description: str, *, value: float, step: float) -> Any:
    """A slider from 0 to 1."""
    import ipywidgets as w

    return w.FloatSlider(
        description=description, value=value, min=0, max=1, step=step, readout_format=".2f", **_sized()
    )


def picture_widget(
    *,
    maps: Any,
    on_place: Callable[[float, float], None],
    on_move: Callable[[int, int], None],
    on_enlarge: Callable[[], tuple[bytes, str]],
    on_stroke: Callable[[list[Point]], None],
    on_typing: Callable[[str], None],
    **shown: Any,
) -> Any:
    """A picture that reports clicks and arrow keys, which the image of ipywidgets does not.

    on_place: called with the clicked place, as shares (0-1) of the height and the width. on_move: called for an arrow
    key with its steps (-1, 0, 1) down and to the right. on_enlarge: called when it is enlarged, for the encoded image
    to show there and its media type. on_stroke: called with the points of a stroke, where ``tool`` is not "look".
    on_typing: called with the text of the names when typing pauses.
    maps: the widget of ``page_maps_widget``. shown: the traits ``kind`` (the panel that the page draws from ``maps``,
    or ""), ``content`` (else an encoded image), ``media`` (its media type), ``title``, ``caption``, and ``there``:
    False for a panel that has nothing to show.
    """
    widget = _picture_class()(maps=maps, **shown)

    def received(_: Any, message: dict[str, Any], __: Any) -> None:
        if "ask" in message:  # a page that was loaded while the kernel was busy may have missed the content
            widget.send_state(["kind", "content", "media", "title", "caption", "there"])
            if message["ask"] == "maps":
                maps.send_state()
        elif "enlarge" in message:
            content, media = on_enlarge()
            widget.send({"large": media}, buffers=[content])
        elif "stroke" in message:
            on_stroke([(float(down), float(right)) for down, right in message["stroke"]])
            widget.send({"stroked": True})  # what the page drew of it can go
        elif "typing" in message:
            on_typing(str(message["typing"]))
        elif "click" in message:
            on_place(*(float(part) for part in message["click"]))
        elif "move" in message:
            on_move(*(int(part) for part in message["move"]))

    widget.on_msg(received)
    return widget


@lru_cache(maxsize=1)
def _picture_class() -> Any:
    # Defined on first use, so that the package imports without the extra `workbook`.
    import anywidget
    import ipywidgets
    import traitlets

    class InspectedPicture(anywidget.AnyWidget):
        _esm = "\n".join((FOLDER / file).read_text("utf-8") for file in ("drawing.js", "picture.js"))
        _css = FOLDER / "picture.css"
        maps = traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization)
        kind = traitlets.Unicode("").tag(sync=True)
        content = traitlets.Bytes(b"").tag(sync=True)
        media = traitlets.Unicode("image/png").tag(sync=True)
        title = traitlets.Unicode("").tag(sync=True)
        caption = traitlets.Unicode("").tag(sync=True)
        there = traitlets.Bool(True).tag(sync=True)
        tool = traitlets.Unicode("look").tag(sync=True)
        radius = traitlets.Float(0.02).tag(sync=True)

    return InspectedPicture


def _sized() -> dict[str, Any]:
    """Layout and style of a control that fills its columns."""
    import ipywidgets as w

    return {"layout": w.Layout(width="auto", margin="2px 0"), "style": {"description_width": LABEL}}


def _filling() -> Any:
    """The layout of a button that shares a row with others."""
    import ipywidgets as w

    return w.Layout(width="auto", flex="1 1 auto", margin="2px 0")


def _row(*buttons: Any) -> Any:
    """Buttons side by side."""
    import ipywidgets as w

    return w.HBox(buttons, layout=w.Layout(width="auto", grid_gap="8px", overflow="hidden"))


def _grid(cells: Sequence[Any], gap: str) -> Any:
    """``cells`` in as many columns as the window has room for."""
    import ipywidgets as w

    columns = f"repeat(auto-fill, minmax({CELL}, 1fr))"
    return w.GridBox(tuple(cells), layout=w.Layout(grid_template_columns=columns, grid_gap=gap, width="100%"))


def _button(text: str) -> Any:
    import ipywidgets as w

    return w.Button(description=text, layout=_filling())


def _meter(value: float, *, name: str, best: bool, second: float | None) -> str:
    number = f"<b>{value:.3f}</b>" if best else f"{value:.3f}"
    if second is not None:
        return f'<div class="fusioner-words">{number} / {second:.3f}</div>'
    bar = f'<meter min="0" max="1" value="{value:.4f}" aria-label="probability of {html.escape(name)}"></meter>'
    return f'<div class="fusioner-words">{bar} {number}</div>'


@lru_cache(maxsize=LISTED)
def _swatch_html(place: int) -> str:
    content, media = encode_panel(swatch(place), "argmax")
    return f'<img alt="" width="22" height="22" src="data:{media};base64,{base64.b64encode(content).decode()}">'
