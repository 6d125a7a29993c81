"""The one look of all figures, and what every figure needs."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusionerlib.inference.overlay import printable
from fusionerlib.inference.palette import OKABE_ITO

BLUE, ORANGE, GREEN, GREY = OKABE_ITO[4], OKABE_ITO[0], OKABE_ITO[2], "#777777"


@contextmanager
def style() -> Iterator[None]:
    """Small sans-serif type, no box round the axes, colour-blind-safe colours; the former settings come back after."""
    settings = {
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, *OKABE_ITO[5:], OKABE_ITO[1]]),
        "figure.dpi": 100,
        "image.interpolation": "nearest",
        "legend.frameon": False,
        # A name with a dollar sign is a name, no formula.
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        yield


class ShownFigure(Figure):
    """A figure that a notebook shows as a PNG when it ends a cell, whether or not pyplot has been set up there."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        _write(self, stream, dpi=110)
        return stream.getvalue()


def figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches that is known to no window manager, so nothing leaks."""
    return ShownFigure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path | str, *, dpi: int = 130) -> Path:
    """Write ``figure`` to ``path`` with nothing clipped, making its folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(figure, path, dpi=dpi)
    plt.close(figure)
    return path


def _write(figure: Figure, target: Path | io.BytesIO, *, dpi: int) -> None:
    with style():
        figure.savefig(target, dpi=dpi, bbox_inches="tight", facecolor="white")


def short(name: str, width: int = 28) -> str:
    """``name`` on one line of at most ``width`` characters."""
    name = printable(name)
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"


def wrapped(name: str, width: int = 22, lines: int = 2) -> str:
    """``name`` on at most ``lines`` lines of ``width`` characters."""
    return "\n".join(textwrap.wrap(printable(name), width, max_lines=lines, placeholder=" …")) or " "


def picture(axes: Axes, title: str = "") -> None:
    """Makes ``axes`` a place for an image: no ticks, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)
