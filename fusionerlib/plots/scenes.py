"""Scenes as pictures: labels and predictions drawn over the image, with the names as a legend."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fusionerlib.datasets.scene import Scene, Scenes, labels_for
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.metrics import decide
from fusionerlib.evaluation.scoring import Prediction
from fusionerlib.inference.overlay import Entry, grey, legend_entries, overlay, printable, short
from fusionerlib.inference.palette import palette
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.plots.style import COLUMN, LETTER, figure, picture, style, wrapped


@dataclass(frozen=True)
class SceneRow:
    """A row of ``scene_rows``: one query with its prediction.

    Labels of ``truth`` and ``predicted``: 0 is background, k + 1 is ``names[k]``, 255 is ignored. beside: predictions
    of other models for the same names, by title; the same titles in all rows of a figure.
    """

    title: str
    image: UInt8[np.ndarray, "height width 3"]
    names: tuple[str, ...]
    truth: Integer[np.ndarray, "height width"]
    predicted: Integer[np.ndarray, "height width"]
    beside: Mapping[str, Integer[np.ndarray, "height width"]] = field(default_factory=dict)


def segmented_rows(
    scenes: Scenes, indices: Iterable[int], segmenters: Mapping[str, Segmenter], names: Sequence[str]
) -> list[SceneRow]:
    """What several segmenters answer for the same scenes, all ``names`` asked at once, as rows for ``scene_rows``.

    The first segmenter's answer is the row's prediction, the others stand beside it under their key.
    """
    rows = []
    for index in indices:
        scene = scenes[index]
        (_, first), *others = (
            (key, segmenter.set_image(scene.image).segment(names).labels) for key, segmenter in segmenters.items()
        )
        truth = labels_for(scene.labels, scene.names, names)
        rows.append(SceneRow(scene.key, scene.image, tuple(names), truth, first, dict(others)))
    return rows


def prediction_rows(predictions: Iterable[Prediction], scenes: Scenes, *, threshold: float = 0.5) -> list[SceneRow]:
    """Predictions about ``scenes`` as rows for ``scene_rows``. The scenes must have the size of the predictions.

    threshold: a pixel is background where no probability exceeds it, 0-1.
    """
    return [
        SceneRow(
            title="asked: 1 name" if len(query.names) == 1 else f"asked: {len(query.names)} names",
            image=scenes[query.scene].image,
            names=query.names,
            truth=target,
            predicted=decide(probabilities, threshold=threshold),
        )
        for query, probabilities, target in predictions
    ]


def scenes(shown: Sequence[Scene], *, columns: int = 4, opacity: float = 0.6) -> Figure:
    """Scenes side by side, each with its image, its labels drawn over the grey image, and its names as a legend.

    columns: most scenes in a row. opacity: of the labels, 0-1. Raises FusionerError where ``shown`` is empty.
    """
    if not shown:
        raise FusionerError("there is no scene to show: pass at least one Scene")
    with style():
        blocks = -(-len(shown) // columns)
        columns = min(columns, len(shown))
        width = min(2.6, COLUMN / columns)
        lines = max(len(scene.names) for scene in shown)
        tall = max(scene.image.shape[0] / scene.image.shape[1] for scene in shown)
        heights = [width * tall, width * tall, 0.19 * lines + 0.05]
        result = figure(width * columns, (sum(heights) + 0.15) * blocks)
        panels = result.subplots(3 * blocks, columns, squeeze=False, height_ratios=heights * blocks)
        for axes in panels.ravel():
            axes.set_axis_off()
        for index, scene in enumerate(shown):
            block, column = divmod(index, columns)
            image, labels, names = panels[3 * block : 3 * block + 3, column]
            image.imshow(scene.image)
            labels.imshow(
                np.asarray(overlay(grey(scene.image), scene.labels, scene.names, opacity=opacity, legend=False))
            )
            colours = [tuple(part / 255 for part in colour) for colour in palette(len(scene.names)).tolist()]
            handles = [
                Patch(color=colour, label=short(name, int(width / LETTER) - 4))
                for colour, name in zip(colours, scene.names, strict=True)
            ]
            legend = names.legend(
                handles=handles, loc="upper left", handlelength=1.0, borderaxespad=0, labelspacing=0.25
            )
            legend.set_in_layout(False)  # it has a place of its own, and must not make the images smaller
    return result


def scene_rows(rows: Sequence[SceneRow], *, opacity: float = 0.6) -> Figure:
    """One row for each scene: image, ground truth, predictions, and a legend of the names that were asked.

    A name with a star is not in the image: the legend keeps it, because the model was asked for it in vain.
    opacity: of the labels, 0-1. Raises FusionerError where ``rows`` is empty.
    """
    if not rows:
        raise FusionerError("there is no scene to show: pass at least one SceneRow")
    with style():
        titles = ("image", "ground truth", "prediction", *rows[0].beside)
        width = min(2.3, (COLUMN - 1.6) / len(titles))
        lines = [min(len(row.names), 13) + 1.3 + len(wrapped(row.title, 20, 4).split("\n")) for row in rows]
        heights = [
            max(width * row.image.shape[0] / row.image.shape[1], 0.17 * count)
            for row, count in zip(rows, lines, strict=True)
        ]
        result = figure(1.6 + width * len(titles), sum(heights) + 0.12 * len(rows) + 0.2)
        widths = (*(width for _ in titles), 1.6)
        panels = result.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths, height_ratios=heights)
        for index, (row, axes) in enumerate(zip(rows, panels, strict=True)):
            shown = [
                overlay(grey(row.image), labels, row.names, opacity=opacity, legend=False)
                for labels in (row.truth, row.predicted, *row.beside.values())
            ]
            for panel, content, title in zip(axes[:-1], (row.image, *shown), titles, strict=True):
                panel.imshow(np.asarray(content))
                picture(panel, "" if index else title)
            axes[-1].set_axis_off()
            drawn = np.stack([row.truth, row.predicted, *row.beside.values()])
            areas = [int((drawn == k + 1).any(axis=0).sum()) for k in range(len(row.names))]
            present = {printable(name) for k, name in enumerate(row.names) if (row.truth == k + 1).any()}
            entries = legend_entries(row.names, areas, total=row.truth.size, limit=12)
            absent = [entry.swatch is not None and entry.text not in present for entry in entries]
            handles = list(map(_legend_patch, entries, absent))
            note = "\n* not in the image" if any(absent) else ""
            axes[-1].legend(
                handles=handles,
                loc="center left",
                bbox_to_anchor=(0, 0.5),
                handlelength=1.0,
                handleheight=1.0,
                title=wrapped(row.title, 20, 4) + note,
                alignment="left",
                title_fontproperties={"weight": "bold"},
                labelspacing=0.25,
            )
        return result


def _legend_patch(entry: Entry, absent: bool) -> Patch:
    """The line of a name, with a star where it is ``absent`` from the image."""
    if entry.swatch is None:
        return Patch(color="none", label=short(entry.text))
    text = f"{short(entry.text, 18)} *" if absent else short(entry.text, 20)
    return Patch(color=tuple(part / 255 for part in entry.swatch), label=text)
