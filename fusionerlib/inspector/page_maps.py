"""What the page needs to draw panels by itself, so that a slider or a click does not wait for the kernel.

The kernel sends the maps of an answer once; drawing.js applies threshold and opacity to them while a slider moves.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.inspector.drawing import EXTRA, MISSED, WRONG, error_style, hatches, heat_colours, style
from fusionerlib.inspector.panels import all_names, painted_labels, truth
from fusionerlib.inspector.state import InspectorState

DRAWN_BY_PAGE = ("overlay", "probability", "argmax", "error", "beside", "difference")
"""Panels that follow from the maps and the sliders."""
MAPS = ("best", "winner", "value", "truth", "second", "painted")
LARGEST = 65535
"""In the maps: a probability of 1, and the label of an ignored pixel."""


def page_maps(state: InspectorState) -> dict[str, Any]:
    """The traits of ``page_maps_widget`` that follow from ``state``.

    A map is bytes: 16-bit numbers, row by row, or nothing. size: height and width. photo: RGB. best, value: the largest
    probability of all names, and that of the chosen one. winner: the most probable name. truth, second: ground truth,
    and labels of the second model. painted: see ``painted_labels``. Labels are numbered by all names. hatches: eight
    bits a pixel, one for each hatch. styles: see ``drawing.style``, one for each name. pixel: the clicked one, as
    shares (0-1) of height and width.
    """
    view, second, value = state.view, state.beside_view, state.probability()
    labels, painted = truth(state), painted_labels(state, *state.small.shape[:2])
    found = {"best": _levels(view.best.sigmoid().numpy()), "winner": all_names(state, view.winner + 1)} if view else {}
    maps = {
        **found,
        "value": None if value is None else _levels(value),
        "truth": None if labels is None else np.where(labels == IGNORE, LARGEST, all_names(state, labels)),
        "second": None if second is None else all_names(state, second.labels),
        "painted": painted,
    }
    height, width = state.photo.shape[:2]
    return {
        **{name: b"" for name in MAPS},
        **{name: numbers.astype("<u2").tobytes() for name, numbers in maps.items() if numbers is not None},
        "size": state.small.shape[:2],
        "photo": state.small.tobytes(),
        "hatches": _hatch_bits(*state.small.shape[:2]),
        "styles": tuple(map(style, range(len(state.names)))),
        "pixel": () if state.pixel is None else ((state.pixel[0] + 0.5) / height, (state.pixel[1] + 0.5) / width),
    }


def answer_maps(state: InspectorState) -> dict[str, Any]:
    """The part of ``page_maps`` that changes with the names asked."""
    maps = page_maps(state)
    return {name: maps[name] for name in (*MAPS, "styles")}


def page_maps_widget(state: InspectorState, *, threshold: Any, opacity: Any) -> Any:
    """A widget without a view that brings ``page_maps`` to the page, and what never changes: ``heat_colours`` and the
    ``error_style`` of each error. threshold, opacity: the sliders."""
    constant = {"heat": heat_colours().tobytes(), "errors": tuple(map(error_style, (MISSED, EXTRA, WRONG)))}
    return _page_maps_class()(threshold=threshold, opacity=opacity, **constant, **page_maps(state))


def _levels(probabilities: np.ndarray) -> np.ndarray:
    return np.floor(probabilities * LARGEST)


@lru_cache(maxsize=8)
def _hatch_bits(height: int, width: int) -> bytes:
    return np.packbits(hatches(height, width), axis=0, bitorder="little").tobytes()


@lru_cache(maxsize=1)
def _page_maps_class() -> Any:
    # Defined on first use, so that the package imports without the extra `workbook`.
    import ipywidgets
    import traitlets

    class PageMaps(ipywidgets.Widget):
        size, pixel = (traitlets.Tuple().tag(sync=True) for _ in range(2))
        styles, errors = (traitlets.Tuple().tag(sync=True) for _ in range(2))
        photo, hatches, heat = (traitlets.Bytes().tag(sync=True) for _ in range(3))
        best, winner, value, truth, second, painted = (traitlets.Bytes().tag(sync=True) for _ in range(6))
        # What is being typed in the field of the names ("text"), and its ``answer_maps`` ("maps").
        prepared = traitlets.Dict().tag(sync=True)
        threshold, opacity = (
            traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization) for _ in range(2)
        )

    return PageMaps
