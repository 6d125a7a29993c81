"""The panels of an inspector's state as pictures, each with a title and a line that says how to read it."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor

from fusionerlib.datasets.scene import labels_for
from fusionerlib.errors import FusionerError
from fusionerlib.inference.inspection import patch_similarity
from fusionerlib.inference.overlay import printable
from fusionerlib.inspector import panels
from fusionerlib.inspector.panels import Picture
from fusionerlib.inspector.state import InspectorState
from fusionerlib.models.decoder import resize

TITLES = {
    "overlay": "Masks on the image",
    "probability": "Probability",
    "argmax": "Best name of each pixel",
    "truth": "Ground truth",
    "error": "Errors",
    "attention": "Attention",
    "similarity": "Patches like the clicked one",
}
ALIKE = 6
"""Patches that get a frame, those most like the clicked one."""
NO_IMAGE = "No image yet:\nupload one, or pass images to inspect()."
NO_NAMES = "No name is asked:\ntype one, or switch one on."
Drawn = tuple[Picture, str]
"""A panel and its caption."""


def panel(state: InspectorState, key: str) -> Drawn:
    """The panel ``key`` of ``PANELS``, RGB 0-255, with a caption of one line. What can't be shown says why."""
    if state.case is None:
        return panels.remark(NO_IMAGE), ""
    return _DRAWERS[key](state)


def title(state: InspectorState, key: str) -> str:
    """What stands above the panel."""
    word = key in ("probability", "attention") and state.word
    return f"{TITLES[key]} of “{_short(state.word)}”" if word else TITLES[key]


def truth(state: InspectorState) -> Integer[np.ndarray, "rows columns"] | None:
    """The case's labels by the names that are asked, at the panels' size: what isn't asked is background, 255 stays."""
    case = state.case
    if case is None or case.labels is None:
        return None
    height, width = state.small.shape[:2]
    nearest = Image.fromarray(case.labels).resize((width, height), Image.Resampling.NEAREST)
    return labels_for(np.asarray(nearest), case.names, state.on)


def predicted(state: InspectorState) -> Integer[np.ndarray, "rows columns"]:
    """The labels that are shown, at the panels' size; all background where no name is asked."""
    return np.zeros(state.small.shape[:2], dtype=np.int32) if state.view is None else state.view.labels


def pixel_probabilities(state: InspectorState) -> list[tuple[str, float]]:
    """Every asked name's probability (0-1) at the clicked pixel, highest first; empty without pixel or answer."""
    if state.pixel is None or state.view is None:
        return []
    values = _sampled(state.view.coarse, state.pixel, state.photo.shape[:2]).sigmoid().tolist()
    return sorted(zip(state.on, values, strict=True), key=lambda row: -row[1])


def _overlay(state: InspectorState) -> Drawn:
    labels = predicted(state)
    picture = panels.painted(state.small, _coloured(state, labels), opacity=state.opacity)
    if state.pixel is not None:
        picture = _spotted(state, picture)
    if state.view is None:
        return picture, "no name is asked"
    return picture, f"{(labels > 0).mean():.0%} of the image has a name"


def _probability(state: InspectorState) -> Drawn:
    values = state.probability()
    if values is None:
        return panels.remark(NO_NAMES), ""
    picture = panels.contour(panels.heat(state.small, values, low=0.0, high=1.0), values > state.threshold)
    return picture, f"dark 0, bright 1, highest {values.max():.2f}; line: threshold {state.threshold:.2f}"


def _argmax(state: InspectorState) -> Drawn:
    if state.view is None:
        return panels.remark(NO_NAMES), ""
    return panels.mapped(_coloured(state, predicted(state))), "black: no probability exceeds the threshold"


def _truth(state: InspectorState) -> Drawn:
    labels = truth(state)
    if labels is None:
        return panels.remark("No ground truth is known for this image."), ""
    return panels.mapped(_coloured(state, labels)), "of the asked names; black: none of them, white: not judged"


def _error(state: InspectorState) -> Drawn:
    labels = truth(state)
    if labels is None:
        return panels.remark("No errors to show:\nno ground truth is known for this image."), ""
    wrongs = panels.compared(predicted(state), labels)
    judged = max(1, int((wrongs != 255).sum()))
    kinds = {"missed (blue /)": panels.MISSED, "extra (orange \\)": panels.EXTRA, "wrong (pink x)": panels.WRONG}
    told = (f"{kind} {(wrongs == label).sum() / judged:.0%}" for kind, label in kinds.items())
    return panels.errors(state.small, wrongs), ", ".join(told)


def _attention(state: InspectorState) -> Drawn:
    if state.view is None:
        return panels.remark(NO_NAMES), ""
    try:
        weights = state.attention()
    except FusionerError as error:
        return panels.remark(f"No attention to show:\n{error}."), ""
    layer = min(state.layer, len(weights) - 1)
    heat = weights[layer, state.on.index(state.word)]
    values = _stretched(state, heat)
    picture = panels.heat(state.small, values, low=0.0, high=float(heat.max()))
    return picture, f"layer {layer + 1} of {len(weights)}: {heat.sum():.0%} on patches, most {heat.max():.1%}"


def _similarity(state: InspectorState) -> Drawn:
    if state.pixel is None:
        return panels.remark("Click a pixel of any picture, or press an arrow key on it."), ""
    try:
        tokens = state.segmenter.tokens.main
    except FusionerError as error:
        return panels.remark(f"No similarity to show:\n{error}."), ""
    height, width = state.photo.shape[:2]
    row, column = state.pixel[0] * tokens.grid[0] // height, state.pixel[1] * tokens.grid[1] // width
    scores = patch_similarity(tokens, row=row, column=column)
    order = scores.flatten().argsort(descending=True)[: ALIKE + 1].tolist()
    places = [divmod(place, tokens.grid[1]) for place in order]
    low = float(scores.min())
    picture = panels.heat(state.small, _stretched(state, scores), low=low, high=1.0)
    picture = panels.boxed(picture, [place for place in places if place != (row, column)][:ALIKE], grid=tokens.grid)
    picture = _spotted(state, picture)
    return picture, f"cosine, dark {low:.2f}, bright 1; framed: the {ALIKE} most alike"


_DRAWERS: dict[str, Callable[[InspectorState], Drawn]] = {
    "overlay": _overlay,
    "probability": _probability,
    "argmax": _argmax,
    "truth": _truth,
    "error": _error,
    "attention": _attention,
    "similarity": _similarity,
}


def _spotted(state: InspectorState, picture: Picture) -> Picture:
    """``picture`` with a cross on the clicked pixel."""
    assert state.pixel is not None
    row, column = (
        (place + 0.5) * side / count
        for place, side, count in zip(state.pixel, picture.shape[:2], state.photo.shape[:2], strict=True)
    )
    return panels.crossed(picture, row=row, column=column)


def _coloured(state: InspectorState, labels: np.ndarray) -> np.ndarray:
    """Labels by the asked names as labels by all names: a name keeps its colour while others are switched off."""
    table = np.arange(max(256, len(state.on) + 1), dtype=np.int32)
    table[1 : len(state.on) + 1] = [state.names.index(name) + 1 for name in state.on]
    return table[labels]


def _stretched(state: InspectorState, grid: Tensor) -> np.ndarray:
    """A map on the grid of patches at the panels' size."""
    height, width = state.small.shape[:2]
    return resize(grid[None, None].cpu(), (height, width))[0, 0].numpy()


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 20 else name[:19].rstrip() + "…"


def _sampled(
    maps: Float[Tensor, "names rows columns"], pixel: tuple[int, int], size: tuple[int, ...]
) -> Float[Tensor, " names"]:
    """What bilinear resizing of ``maps`` to ``size`` gives at one pixel (``align_corners=False``)."""
    (top, bottom, down), (left, right, across) = (
        _taps(place, count, length) for place, count, length in zip(pixel, size, maps.shape[1:], strict=True)
    )
    upper = maps[:, top, left].lerp(maps[:, top, right], across)
    return upper.lerp(maps[:, bottom, left].lerp(maps[:, bottom, right], across), down)


def _taps(place: int, count: int, length: int) -> tuple[int, int, float]:
    """Of ``length`` values stretched over ``count`` places: the two round ``place``, and the share of the second."""
    source = max(0.0, (place + 0.5) * length / count - 0.5)
    low = min(int(source), length - 1)
    return low, min(low + 1, length - 1), source - low
