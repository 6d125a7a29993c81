"""The picture at the top of each notebook: what is asked, without the answer.

``python -m workbook.openings docs/pictures/course`` draws them, which ``make pictures`` runs.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fusionerlib.datasets.scene import Scene
from fusionerlib.inference.inspection import sample_photo, sample_scene
from fusionerlib.inference.overlay import grey, overlay
from fusionerlib.plots.scenes import scenes
from fusionerlib.plots.style import BLUE, COLUMN, GREEN, GREY, ORANGE, figure, picture, save, style

Panel = tuple[str, np.ndarray | str]
"""A title, and an image (height, width, RGB; 0-255) or a text in its place."""
Box = tuple[float, float, str, str]
"""Column, row (from the top), text and colour of a box in a drawing; places may lie between columns and rows."""
Arrow = tuple[int, int]
"""From which box to which, by their places in the list."""

WIDE, TALL = 1.25, 0.5
"""Size of a box in inches."""


def panels(shown: Sequence[Panel], *, height: float = 1.5) -> Figure:
    """Images and texts side by side."""
    with style():
        result = figure(COLUMN, height)
        wide = [one.shape[1] / one.shape[0] if isinstance(one, np.ndarray) else 0.8 for _, one in shown]
        for axes, (title, one) in zip(result.subplots(1, len(shown), width_ratios=wide), shown, strict=True):
            picture(axes, title)
            if isinstance(one, np.ndarray):
                axes.imshow(one)
            else:
                axes.text(0.5, 0.5, one, ha="center", va="center", linespacing=1.6)
        return result


def boxes(drawn: Sequence[Box], arrows: Sequence[Arrow]) -> Figure:
    """Boxes with arrows between them: from the right side of one to the left side of the other."""
    columns, rows = max(box[0] for box in drawn) + 1, max(box[1] for box in drawn) + 1
    pitch = (COLUMN - 0.1 - WIDE) / max(columns - 1, 1)
    with style():
        result = figure(COLUMN, rows * (TALL + 0.2) + 0.1)
        axes = result.subplots()
        axes.set(xlim=(-0.05, COLUMN - 0.05), ylim=(rows * (TALL + 0.2), -0.1))
        axes.set_axis_off()
        for column, row, text, colour in drawn:
            left, top = column * pitch, row * (TALL + 0.2)
            shape = "round,pad=0,rounding_size=0.08"
            axes.add_patch(FancyBboxPatch((left, top), WIDE, TALL, shape, fc=colour, ec="none", alpha=0.2))
            axes.text(left + WIDE / 2, top + TALL / 2, text, ha="center", va="center")
        for start, end in arrows:
            _arrow(axes, drawn[start], drawn[end], pitch)
        return result


def _arrow(axes: Axes, start: Box, end: Box, pitch: float) -> None:
    (x0, y0), (x1, y1) = ((box[0] * pitch, box[1] * (TALL + 0.2) + TALL / 2) for box in (start, end))
    axes.annotate("", (x1, y1), (x0 + WIDE, y0), arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 1})


def _labelled(scene: Scene) -> np.ndarray:
    return np.asarray(overlay(grey(scene.image), scene.labels, scene.names, opacity=0.6, legend=False))


def _listed(names: Sequence[str]) -> str:
    return "\n".join(names)


def the_model() -> Figure:
    """00: an image and its names become masks."""
    scene = sample_scene(size=224)
    between = ("names", _listed(scene.names)), ("", "→  ?  →")
    return panels([("image", scene.image), *between, ("masks", _labelled(scene))])


def feature_inspection() -> Figure:
    """01: the patches of a photo."""
    photo = sample_photo("chelsea", multiple=32).numpy()
    patches = photo.repeat(4, axis=0).repeat(4, axis=1)  # lines of one pixel would vanish where the figure is smaller
    for edge in range(6):
        patches[edge::64] = patches[:, edge::64] = 255
    size = f"{photo.shape[0] // 16} x {photo.shape[1] // 16} patches"
    return panels([("photo", photo), (size, patches), ("a vector each", "which of them\nare alike?")], height=1.6)


def training() -> Figure:
    """02: training scenes with their masks."""
    return scenes([sample_scene(size=224, seed=seed) for seed in range(4)])


def evaluation() -> Figure:
    """03: a scene, the names asked of it, one of them absent, its true masks, and a prediction to come."""
    scene = sample_scene(size=224, seed=1)
    asked = [*scene.names, "red bicycle", "(absent)"]
    return panels(
        [("image", scene.image), ("asked", _listed(asked)), ("ground truth", _labelled(scene)), ("prediction", "?")]
    )


def ablations() -> Figure:
    """04: where patches and names meet."""
    tokens = [(0, 0, "patch tokens", BLUE), (0, 1, "text tokens", ORANGE)]
    early = [*tokens, (1, 0.5, "one transformer", GREEN), (2, 0.5, "masks", GREY)]
    late = [(column, row + 2.4, text, colour) for column, row, text, colour in tokens]
    late += [(1, 2.4, "transformer", BLUE), (1, 3.4, "transformer", ORANGE), (2, 2.9, "cosine: masks", GREY)]
    names = [(0, -0.45, "early fusion", "none"), (0, 1.95, "late fusion", "none")]
    arrows = [(0, 2), (1, 2), (2, 3), (4, 6), (5, 7), (6, 8), (7, 8)]
    moved = [(column, row + 0.45, text, colour) for column, row, text, colour in [*early, *late, *names]]
    return boxes(moved, arrows)


def mosaics() -> Figure:
    """05: which tile is whose?"""
    scene = sample_scene(size=224, seed=2)
    names = _listed(sorted(scene.names))
    return panels([("mosaic", scene.image), ("four names", names), ("which tile is whose?", "?   ?\n\n?   ?")])


def mask_inspector() -> Figure:
    """06: a photo, a name that is in it, and one that is not."""
    return _asked("chelsea", ("cat", "zebra"))


def encoder_pairs() -> Figure:
    """07: one visual encoder, two text encoders, two kinds of fusion."""
    drawn = [
        (0, 0, "EfficientNet\n(frozen)", BLUE),
        (0, 1, "MiniLM\n(sentences)", ORANGE),
        (0, 2, "CLIP's text\n(captions)", ORANGE),
        (1, 0, "early fusion", GREEN),
        (1, 2, "late fusion", GREEN),
        (2, 1, "masks of\nunseen names?", GREY),
    ]
    return boxes(drawn, [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4), (3, 5), (4, 5)])


def words_that_carry_over() -> Figure:
    """08: a name that is in the photo, and one that is not."""
    return _asked("coffee", ("cup", "cow"))


def performance() -> Figure:
    """09: a training step, part by part."""
    drawn = [
        (0, 0, "visual encoder\n(frozen)", BLUE),
        (0, 1, "text encoder\n(frozen)", ORANGE),
        (1, 0.5, "fusion, decoder", GREEN),
        (2, 0, "loss", GREY),
        (2, 1, "optimiser", GREY),
    ]
    return boxes(drawn, [(0, 2), (1, 2), (2, 3), (2, 4)])


def _asked(photo: str, names: Sequence[str]) -> Figure:
    image = sample_photo(photo, multiple=32).numpy()
    return panels([("photo", image), *((f"asked: {name}", "which pixels?") for name in names)], height=1.6)


OPENINGS: dict[str, Callable[[], Figure]] = {
    "00_the_model": the_model,
    "01_feature_inspection": feature_inspection,
    "02_training": training,
    "03_evaluation": evaluation,
    "04_ablations": ablations,
    "05_mosaic4_robustness": mosaics,
    "06_mask_inspector": mask_inspector,
    "07_encoder_pairs": encoder_pairs,
    "08_words_that_carry_over": words_that_carry_over,
    "09_performance": performance,
}
"""The picture of each notebook."""


if __name__ == "__main__":
    for stem, drawing in OPENINGS.items():
        save(drawing(), Path(sys.argv[1]) / f"{stem}.jpg")
