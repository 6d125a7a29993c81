"""A picture in the browser that reports clicks and arrow keys: what ipywidgets' own image can't."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def picture_widget(*, on_place: Callable[[float, float], None], on_move: Callable[[int, int], None]) -> Any:
    """An anywidget with the traits ``content`` (an encoded image), ``media`` (its type), ``title`` and ``caption``.

    on_place: gets the clicked place as shares (0-1) of the height and the width. on_move: gets the arrow that was
    pressed as steps (-1, 0, 1) down and to the right.
    """
    widget = _picture_class()()

    def told(_: Any, message: dict[str, Any], __: Any) -> None:
        if "click" in message:
            on_place(*(float(part) for part in message["click"]))
        elif "move" in message:
            on_move(*(int(part) for part in message["move"]))

    widget.on_msg(told)
    return widget


@lru_cache(maxsize=1)
def _picture_class() -> Any:
    # Made when it is first needed: the library imports without the extra that brings widgets.
    import anywidget
    import traitlets

    class InspectedPicture(anywidget.AnyWidget):
        _esm = FOLDER / "picture.js"
        _css = FOLDER / "picture.css"
        content = traitlets.Bytes(b"").tag(sync=True)
        media = traitlets.Unicode("image/png").tag(sync=True)
        title = traitlets.Unicode("").tag(sync=True)
        caption = traitlets.Unicode("").tag(sync=True)

    return InspectedPicture
