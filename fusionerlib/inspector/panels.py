"""The panels of the inspector: what each shows of an ``InspectorState``, with its caption."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor

from fusionerlib.datasets.scene import IGNORE, labels_for
from fusionerlib.errors import FusionerError
from fusionerlib.inference.inspection import patch_similarity
from fusionerlib.inference.overlay import short
from fusionerlib.inspector.drawing import (
    EXTRA,
    MISSED,
    WRONG,
    Picture,
    draw_contour,
    draw_cross,
    draw_errors,
    draw_frames,
    draw_heat,
    draw_labels,
    draw_overlay,
    error_map,
    message,
)
from fusionerlib.inspector.state import InspectorState
from fusionerlib.inspector.strokes import marks
from fusionerlib.models.decoder import resize

TITLES = {
    "overlay": "Masks on the image",
    "probability": "Probability",
    "argmax": "Best name of each pixel",
    "truth": "Ground truth",
    "error": "Errors",
    "attention": "Attention",
    "similarity": "Similarity to the clicked patch",
    "beside": "Masks of the second model",
    "difference": "Where the two differ",
}
NO_IMAGE = "No image yet:\nupload one, or pass images to inspect()."
NO_NAMES = "No name is asked:\ntype one, or switch one on."
NO_SECOND = "No second model to compare with:\npass two segmenters to inspect()."
FRAMED = 6
"""Number of patches with a frame: those most similar to the clicked one."""
ERROR_NAMES = {MISSED: "missed (blue /)", EXTRA: "extra (orange \\)", WRONG: "wrong (pink x)"}
DIFFERENCES = {MISSED: "second only (blue /)", EXTRA: "first only (orange \\)", WRONG: "another name (pink x)"}
"""The same three cases between two predictions."""


@dataclass(frozen=True)
class Panel:
    """A panel: the function that draws its picture, and its caption of one line; "" for one that is only a message."""

    draw: Callable[[], Picture]
    caption: str = ""


def panel(state: InspectorState, key: str) -> Panel:
    """The panel ``key`` of ``PANELS``. Where there is nothing to show, its picture is a message that says why."""
    return _said(NO_IMAGE) if state.case is None else _PANELS[key](state)


def draw_panel(state: InspectorState, key: str) -> tuple[Picture, str]:
    """The picture and the caption of ``panel``."""
    found = panel(state, key)
    return found.draw(), found.caption


def draw_large(state: InspectorState, key: str, *, longest: int) -> Picture:
    """The panel "overlay" or "argmax" at the image's own size, its longer side at most ``longest`` pixels."""
    answer = state.answer
    assert answer is not None
    labels, photo = all_names(state, answer.labels), state.photo
    if (scale := longest / max(photo.shape[:2])) < 1:
        size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
        photo = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    if key == "argmax":
        return draw_labels(labels)
    return _with_marks(state, draw_overlay(photo, labels, opacity=state.opacity))


def title(state: InspectorState, key: str) -> str:
    """The title above the panel ``key``."""
    if key == "beside" and state.beside is not None and not state.compares_models:
        return f"Masks at threshold {state.beside_threshold:.2f}"
    word = key in ("probability", "attention") and state.word
    return f"{TITLES[key]} of “{short(state.word, 20)}”" if word else TITLES[key]


def truth(state: InspectorState) -> Integer[np.ndarray, "rows columns"] | None:
    """The case's labels at the panels' size: k + 1 is the k-th asked name, 0 everything else, 255 ignored."""
    case = state.case
    if case is None or case.labels is None:
        return None
    height, width = state.small.shape[:2]
    nearest = Image.fromarray(case.labels).resize((width, height), Image.Resampling.NEAREST)
    return labels_for(np.asarray(nearest), case.names, state.on)


def predicted(state: InspectorState) -> Integer[np.ndarray, "rows columns"]:
    """The predicted labels at the panels' size; all background where no name is asked."""
    return np.zeros(state.small.shape[:2], dtype=np.int32) if state.view is None else state.view.labels


def pixel_probabilities(state: InspectorState, *, second: bool = False) -> list[tuple[str, float]]:
    """Each asked name with its probability (0-1) at the clicked pixel, highest first; empty without one.

    second: of the second model, where two are compared.
    """
    view = state.beside_view if second else state.view
    if state.pixel is None or view is None:
        return []
    values = _logits_at(view.fine, state.pixel, state.photo.shape[:2]).sigmoid().tolist()
    return sorted(zip(state.on, values, strict=True), key=lambda row: -row[1])


def all_names(state: InspectorState, labels: np.ndarray) -> np.ndarray:
    """Labels of the asked names renumbered by all names, so that a name keeps its colour while others are off."""
    table = np.arange(max(256, len(state.on) + 1), dtype=np.int32)
    table[1 : len(state.on) + 1] = [state.names.index(name) + 1 for name in state.on]
    return table.take(labels)


def painted_labels(state: InspectorState, height: int, width: int) -> Integer[np.ndarray, "rows columns"] | None:
    """The strokes on the image at this size: k for the k-th painted name, 0 elsewhere; None without strokes."""
    painted = marks(state.strokes, state.index)
    if not painted:
        return None
    labels = np.zeros(state.photo.shape[:2], dtype=np.int32)
    for number, marked in enumerate(painted.values(), start=1):
        labels[marked] = number
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _said(text: str) -> Panel:
    return Panel(partial(message, text))


def _overlay(state: InspectorState) -> Panel:
    labels = predicted(state)

    def draw() -> Picture:
        return _with_marks(state, draw_overlay(state.small, all_names(state, labels), opacity=state.opacity))

    area = "no name is asked" if state.view is None else f"{(labels > 0).mean():.0%} of the image has a name"
    return Panel(draw, area)


def _probability(state: InspectorState) -> Panel:
    values, limit = state.probability(), state.threshold
    if values is None:
        return _said(NO_NAMES)
    told = f"dark 0, bright 1, max {values.max():.2f}; line: threshold {limit:.2f}"
    return Panel(lambda: draw_contour(draw_heat(state.small, values, low=0.0, high=1.0), values > limit), told)


def _argmax(state: InspectorState) -> Panel:
    if state.view is None:
        return _said(NO_NAMES)
    return Panel(lambda: draw_labels(all_names(state, predicted(state))), "black: no probability exceeds the threshold")


def _truth(state: InspectorState) -> Panel:
    labels = truth(state)
    if labels is None:
        return _said("No ground truth is known for this image.")
    return Panel(lambda: draw_labels(all_names(state, labels)), "asked names only; black: none of them, white: ignored")


def _error(state: InspectorState) -> Panel:
    labels = truth(state)
    if labels is None:
        return _said("No errors to show:\nno ground truth is known for this image.")
    errors = error_map(found := predicted(state), labels)
    judged = max(1, int((errors != 255).sum()))
    shares = [f"{name} {(errors == label).sum() / judged:.0%}" for label, name in ERROR_NAMES.items()]
    if state.word:
        own = (labels == state.on.index(state.word) + 1), (found == state.on.index(state.word) + 1) & (labels != IGNORE)
        union = int((own[0] | own[1]).sum())
        iou = f"{int((own[0] & own[1]).sum()) / union:.2f}" if union else "none: neither there nor found"
        shares.insert(0, f"IoU of “{short(state.word, 20)}” {iou}")
    return Panel(lambda: draw_errors(state.small, errors), ", ".join(shares))


def _attention(state: InspectorState) -> Panel:
    if state.view is None:
        return _said(NO_NAMES)
    try:
        weights = state.attention()
    except FusionerError as error:
        return _said(f"No attention to show:\n{error}.")
    layer = min(state.layer, len(weights) - 1)
    heat = weights[layer, state.on.index(state.word)]
    told = f"layer {layer + 1} of {len(weights)}: {heat.sum():.0%} on patches, max {heat.max():.1%}"
    return Panel(lambda: draw_heat(state.small, _resized(state, heat), low=0.0, high=float(heat.max())), told)


def _similarity(state: InspectorState) -> Panel:
    if state.pixel is None:
        return _said("Click a pixel of any picture, or press an arrow key on it.")
    try:
        tokens = state.segmenter.tokens.main
    except FusionerError as error:
        return _said(f"No similarity to show:\n{error}.")
    height, width = state.photo.shape[:2]
    row, column = state.pixel[0] * tokens.grid[0] // height, state.pixel[1] * tokens.grid[1] // width
    scores = patch_similarity(tokens, row=row, column=column)
    low = float(scores.min())

    def draw() -> Picture:
        order = scores.flatten().argsort(descending=True)[: FRAMED + 1].tolist()
        places = [place for at in order if (place := divmod(at, tokens.grid[1])) != (row, column)][:FRAMED]
        picture = draw_heat(state.small, _resized(state, scores), low=low, high=1.0)
        return _with_cross(state, draw_frames(picture, places, grid=tokens.grid))

    return Panel(draw, f"cosine, dark {low:.2f}, bright 1; framed: the {FRAMED} most similar")


def _beside(state: InspectorState) -> Panel:
    if state.beside_view is None:
        return _said(NO_SECOND)
    labels = state.beside_view.labels
    told = f"threshold {state.beside_threshold:.2f}; {(labels > 0).mean():.0%} of the image has a name"
    return Panel(lambda: draw_overlay(state.small, all_names(state, labels), opacity=state.opacity), told)


def _difference(state: InspectorState) -> Panel:
    if state.beside_view is None:
        return _said(NO_SECOND)
    differ = error_map(predicted(state), state.beside_view.labels)
    shares = (f"{name} {(differ == label).mean():.0%}" for label, name in DIFFERENCES.items())
    return Panel(lambda: draw_errors(state.small, differ), ", ".join(shares))


_PANELS: dict[str, Callable[[InspectorState], Panel]] = {
    "overlay": _overlay,
    "probability": _probability,
    "argmax": _argmax,
    "truth": _truth,
    "error": _error,
    "attention": _attention,
    "similarity": _similarity,
    "beside": _beside,
    "difference": _difference,
}


def _with_marks(state: InspectorState, picture: Picture) -> Picture:
    """``picture`` with the outlines of the strokes and the cross of the clicked pixel."""
    if (painted := painted_labels(state, *picture.shape[:2])) is not None:
        for number in range(1, painted.max() + 1):
            picture = draw_contour(picture, np.equal(painted, number))
    return picture if state.pixel is None else _with_cross(state, picture)


def _with_cross(state: InspectorState, picture: Picture) -> Picture:
    """``picture`` with a cross at the clicked pixel."""
    assert state.pixel is not None
    row, column = (
        (place + 0.5) * side / count
        for place, side, count in zip(state.pixel, picture.shape[:2], state.photo.shape[:2], strict=True)
    )
    return draw_cross(picture, row=row, column=column)


def _resized(state: InspectorState, grid: Tensor) -> np.ndarray:
    """A map on the patch grid, resized to the panels' size."""
    height, width = state.small.shape[:2]
    return resize(grid[None, None].cpu(), (height, width))[0, 0].numpy()


def _logits_at(
    maps: Float[Tensor, "names rows columns"], pixel: tuple[int, int], size: tuple[int, ...]
) -> Float[Tensor, " names"]:
    """The logits at one pixel (row, column) after bilinear resizing of ``maps`` to ``size`` (height, width)."""
    row, column = ((2 * place + 1) / length - 1 for place, length in zip(pixel, size, strict=False))
    at = torch.tensor([[[[column, row]]]], dtype=maps.dtype, device=maps.device)
    return F.grid_sample(maps[None], at, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0, 0]
