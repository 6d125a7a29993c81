"""The style of all figures, and helpers that every figure needs."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from fusionerlib.errors import writing
from fusionerlib.inference.overlay import printable
from fusionerlib.inference.palette import OKABE_ITO

VECTOR = (".svg", ".pdf")
COLUMN = 5.2
"""Width of a figure in inches: printed in a column of 8.5 cm its type has 6 points."""
SIZE = 9.0
"""Of all type in a figure, in points."""
LETTER = 0.075
"""About the width of a letter of that size, in inches."""
BLUE, ORANGE, GREEN, GREY = OKABE_ITO[4], OKABE_ITO[0], OKABE_ITO[2], "#777777"


@contextmanager
def style() -> Iterator[None]:
    """Context manager: sans-serif type of one size, no box around the axes, colour-blind-safe colours.

    Matplotlib's former settings return when it ends.
    """
    settings = {
        "font.size": SIZE,
        **dict.fromkeys(("axes.titlesize", "axes.labelsize", "legend.fontsize", "legend.title_fontsize"), SIZE),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "figure.titlesize"), SIZE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, *OKABE_ITO[5:], OKABE_ITO[1]]),
        "figure.dpi": 100,
        "image.interpolation": "nearest",
        "legend.frameon": False,
        # A dollar sign in a class name does not start a formula.
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        yield


class NotebookFigure(Figure):
    """A figure that a notebook displays as a PNG at the end of a cell, whether or not pyplot is set up there."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        _write(self, stream, box=_laid_out(self), dpi=140)
        return stream.getvalue()


def figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches. Pyplot does not keep it, so it needs no closing."""
    return NotebookFigure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path | str, *, dpi: int = 200) -> Path:
    """Write ``figure`` to ``path``, unclipped and with ``dpi`` pixels an inch; creates the folder, returns the path.

    Beside a PNG a ``.svg`` and a ``.pdf`` of the same name are written, for papers: text and lines stay vectors.
    """
    path = Path(path)
    copies = [path.with_suffix(suffix) for suffix in VECTOR] if path.suffix.lower() == ".png" else []
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        box = _laid_out(figure)
        for file in (path, *copies):
            _write(figure, file, box=box, dpi=dpi)
    plt.close(figure)
    return path


def _laid_out(figure: Figure) -> Bbox:
    """The box, in inches, that holds all of ``figure`` and a margin, after its parts have been placed.

    Once for all files: ``savefig`` would place them again for each, and draw the figure once more to find the box.
    """
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        return figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])


def _write(figure: Figure, target: Path | io.BytesIO, *, box: Bbox, dpi: int) -> None:
    # Without a date, equal figures are equal files. Type 42: text in a PDF can be searched and edited.
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(getattr(target, "suffix", ""))
    with style(), matplotlib.rc_context({"svg.hashsalt": "fusioner", "pdf.fonttype": 42}):
        figure.savefig(target, dpi=dpi, bbox_inches=box, facecolor="white", metadata=dated)


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend of ``axes`` below the figure, in as many columns as its width has room for."""
    handles, labels = axes.get_legend_handles_labels()
    widest = max((len(label) for label in labels), default=1) * LETTER + 0.6
    columns = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def wrapped(name: str, width: int = 22, lines: int = 2) -> str:
    """``name`` wrapped to at most ``lines`` lines of ``width`` characters."""
    return "\n".join(textwrap.wrap(printable(name), width, max_lines=lines, placeholder=" …")) or " "


def picture(axes: Axes, title: str = "") -> None:
    """Remove ticks and frame from ``axes``, for an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)
