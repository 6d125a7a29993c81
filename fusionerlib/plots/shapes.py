"""A drawing of the tensors between an image with names and the masks, with their shapes."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fusionerlib.errors import FusionerError
from fusionerlib.plots.style import BLUE, GREEN, ORANGE, figure, style

Tensors = Sequence[tuple[str, tuple[int, ...]]]
"""Names of tensors and their shapes, in the order in which they are computed."""

WIDTH, HEIGHT, GAP = 1.5, 0.62, 0.38
"""Of a box, and of the arrow behind it, in inches."""


def shapes(images: Tensors, names: Tensors, joined: Tensors) -> Figure:
    """Two lanes of boxes, ``images`` above ``names``, whose last tensors become the first of the lane ``joined``.

    Raises FusionerError where a lane is empty.
    """
    if not (images and names and joined):
        raise FusionerError("a lane of the drawing is empty: pass at least one tensor for images, names and joined")
    before = max(len(images), len(names))
    with style():
        pitch = WIDTH + GAP
        result = figure(pitch * (before + len(joined)), 2.6 * HEIGHT)
        axes = result.subplots()
        axes.set(xlim=(-0.1, pitch * (before + len(joined)) - GAP + 0.1), ylim=(-0.1, 2.2 * HEIGHT + 0.1))
        axes.set_aspect("equal")
        axes.set_axis_off()
        upper, middle, lower = 1.2 * HEIGHT, 0.6 * HEIGHT, 0.0
        for lane, top, colour in ((images, upper, BLUE), (names, lower, ORANGE), (joined, middle, GREEN)):
            first = before if lane is joined else before - len(lane)
            for place, (name, shape) in enumerate(lane):
                left = pitch * (first + place)
                _box(axes, left, top, f"{name}\n{' x '.join(map(str, shape))}", colour)
                after = middle if lane is not joined and place == len(lane) - 1 else top
                if lane is not joined or place < len(lane) - 1:
                    _arrow(axes, (left + WIDTH, top + HEIGHT / 2), (left + pitch, after + HEIGHT / 2))
        return result


def _box(axes: Axes, left: float, bottom: float, text: str, colour: str) -> None:
    box = FancyBboxPatch(
        (left, bottom), WIDTH, HEIGHT, "round,pad=0,rounding_size=0.08", fc=colour, ec="none", alpha=0.2
    )
    axes.add_patch(box)
    axes.text(left + WIDTH / 2, bottom + HEIGHT / 2, text, ha="center", va="center", fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555", "shrinkA": 2, "shrinkB": 2})
