"""A drawing of the tensors between an image with names and the masks, with their shapes."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fusionerlib.errors import FusionerError
from fusionerlib.plots.style import BLUE, COLUMN, GREEN, ORANGE, figure, style

Tensors = Sequence[tuple[str, tuple[int, ...]]]
"""Names of tensors and their shapes, in the order in which they are computed."""

WIDTH, HEIGHT, GAP = 0.42 * COLUMN, 0.42, 0.22
"""Of a box, and of the arrow below it, in inches."""


def shapes(images: Tensors, names: Tensors, joined: Tensors) -> Figure:
    """Two lanes of boxes side by side, ``images`` and ``names``, whose last tensors become the first of ``joined``.

    Raises FusionerError where a lane is empty.
    """
    if not (images and names and joined):
        raise FusionerError("a lane of the drawing is empty: pass at least one tensor for images, names and joined")
    before, pitch = max(len(images), len(names)), HEIGHT + GAP
    tall = pitch * (before + len(joined)) - GAP
    left, middle, right = 0.0, (COLUMN - WIDTH) / 2, COLUMN - WIDTH
    with style():
        result = figure(COLUMN, tall + 0.1)
        axes = result.subplots()
        axes.set(xlim=(-0.05, COLUMN + 0.05), ylim=(-0.05, tall + 0.05))
        axes.set_aspect("equal")
        axes.set_axis_off()
        for lane, start, colour in ((images, left, BLUE), (names, right, ORANGE), (joined, middle, GREEN)):
            first = before if lane is joined else before - len(lane)
            for place, (name, shape) in enumerate(lane):
                top = tall - pitch * (first + place)
                _box(axes, start, top - HEIGHT, f"{name}\n{' x '.join(map(str, shape))}", colour)
                last = place == len(lane) - 1
                if last and lane is joined:
                    continue
                # Both lanes end above the box in the middle, each on its own side of it.
                inward = WIDTH / 5 if start < middle else -WIDTH / 5
                aim = middle + WIDTH / 2 - inward if last else start + WIDTH / 2
                _arrow(axes, (start + WIDTH / 2, top - HEIGHT), (aim, top - pitch))
        return result


def _box(axes: Axes, left: float, bottom: float, text: str, colour: str) -> None:
    box = FancyBboxPatch(
        (left, bottom), WIDTH, HEIGHT, "round,pad=0,rounding_size=0.08", fc=colour, ec="none", alpha=0.2
    )
    axes.add_patch(box)
    axes.text(left + WIDTH / 2, bottom + HEIGHT / 2, text, ha="center", va="center")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555", "shrinkA": 1, "shrinkB": 1})
