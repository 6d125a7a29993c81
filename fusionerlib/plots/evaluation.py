"""What a model gets right and wrong: scenes, classes, settings.

Scenes of an evaluation as rows of pictures: what was asked, what is there, what was predicted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.labels import label
from fusionerlib.evaluation.metrics import decide
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import Prediction, predict
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.inference.overlay import legend_entries, overlay, printable
from fusionerlib.inference.palette import palette
from fusionerlib.models import SegmentationModel
from fusionerlib.plots.style import BLUE, GREY, figure, picture, short, style, wrapped


@dataclass(frozen=True)
class SceneRow:
    """One answered question. Labels: 0 = background, k + 1 = ``names[k]``, 255 = ignored."""

    title: str
    image: UInt8[np.ndarray, "height width 3"]
    names: tuple[str, ...]
    truth: Integer[np.ndarray, "height width"]
    predicted: Integer[np.ndarray, "height width"]


def scenes(shown: Sequence[Scene], *, columns: int = 4, opacity: float = 0.6) -> Figure:
    """Scenes side by side: the image above, its labels below, the names as a legend beneath."""
    if not shown:
        raise FusionerError("there is no scene to show: pass at least one Scene")
    with style():
        blocks = -(-len(shown) // columns)
        columns = min(columns, len(shown))
        result = figure(2.6 * columns, 6.4 * blocks)
        panels = result.subplots(2 * blocks, columns, squeeze=False)
        for axes in panels.ravel():
            axes.set_axis_off()
        for index, scene in enumerate(shown):
            block, column = divmod(index, columns)
            panels[2 * block, column].imshow(scene.image)
            labelled = overlay(scene.image, scene.labels, scene.names, opacity=opacity, legend=False)
            panels[2 * block + 1, column].imshow(np.asarray(labelled))
            colours = [tuple(part / 255 for part in colour) for colour in palette(len(scene.names)).tolist()]
            handles = [
                Patch(color=colour, label=short(name, 30)) for colour, name in zip(colours, scene.names, strict=True)
            ]
            panels[2 * block + 1, column].legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(0, -0.02),
                fontsize=8,
                handlelength=1.0,
                borderaxespad=0,
            )
    return result


def scene_rows(rows: Sequence[SceneRow], *, opacity: float = 0.6) -> Figure:
    """One row a scene: image, ground truth, prediction, and the colours of the names that were asked for."""
    if not rows:
        raise FusionerError("there is no scene to show: pass at least one SceneRow")
    with style():
        heights = [max(2.3 * row.image.shape[0] / row.image.shape[1], 0.22 * min(len(row.names), 13)) for row in rows]
        result = figure(9.2, sum(heights) + 0.3 * len(rows))
        panels = result.subplots(len(rows), 4, squeeze=False, width_ratios=(1, 1, 1, 0.9), height_ratios=heights)
        for index, (row, axes) in enumerate(zip(rows, panels, strict=True)):
            shown = [
                overlay(row.image, labels, row.names, opacity=opacity, legend=False)
                for labels in (row.truth, row.predicted)
            ]
            for panel, content, title in zip(
                axes, (row.image, *shown), ("image", "ground truth", "prediction"), strict=False
            ):
                panel.imshow(np.asarray(content))
                picture(panel, "" if index else title)
            axes[3].set_axis_off()
            areas = [int(((row.truth == k + 1) | (row.predicted == k + 1)).sum()) for k in range(len(row.names))]
            present = {printable(name) for k, name in enumerate(row.names) if (row.truth == k + 1).any()}
            entries = legend_entries(row.names, areas, total=row.truth.size, limit=12)
            handles = [
                Patch(
                    color=tuple(part / 255 for part in entry.swatch) if entry.swatch else "none",
                    # The asked names that aren't there are as telling as those that are.
                    label=short(entry.text) + ("" if entry.text in present or not entry.swatch else " (absent)"),
                )
                for entry in entries
            ]
            axes[3].legend(
                handles=handles,
                loc="center left",
                bbox_to_anchor=(0, 0.5),
                fontsize=8,
                handlelength=1.0,
                handleheight=1.0,
                title=wrapped(row.title, 30, 3),
                alignment="left",
                title_fontproperties={"weight": "bold", "size": 8.5},
            )
        return result


def per_class_bars(table: Sequence[Mapping[str, Any]], *, top: int = 10, bottom: int = 10) -> Figure:
    """IoU of the best and the worst classes, with the number of episodes behind each.

    table: rows of ``ClassCounts.table``; classes without a pixel (NaN) are left out.
    """
    rated = sorted((row for row in table if not math.isnan(row["iou"])), key=lambda row: (-row["iou"], row["name"]))
    if not rated:
        raise FusionerError("no class has an IoU: evaluate at least one episode before plotting it")
    if top + bottom >= len(rated):
        parts = [(f"all {len(rated)} classes", rated)]
    else:
        parts = [(f"best {top} of {len(rated)} classes", rated[:top])] if top else []
        parts += [(f"worst {bottom} of {len(rated)} classes", rated[-bottom:])] if bottom else []
    mean = float(np.mean([row["iou"] for row in rated]))
    with style():
        result = figure(4.6 * len(parts), 0.23 * max(len(rows) for _, rows in parts) + 1.0)
        for axes, (title, rows) in zip(result.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            places = range(len(rows))
            bars = axes.barh(places, [row["iou"] for row in rows], color=BLUE, height=0.7)
            axes.bar_label(bars, [f"{row['iou']:.2f}  ({row['episodes']})" for row in rows], padding=3, fontsize=8)
            axes.set_yticks(places, [short(row["name"]) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.axvline(mean, color=GREY, linestyle="--", linewidth=1)
            axes.set(title=title, xlim=(0, 1.22), xlabel=f"IoU (episodes); dashed: mean {mean:.3f}")
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        return result


def ablation_bars(
    rows: Any,
    *,
    setting: str = "setting",
    metric: str = "metric",
    value: str = "value",
    chance: float | None = None,
    title: str = "",
) -> Figure:
    """Grouped bars with their values: a group for each ``setting``, a bar in it for each ``metric``.

    rows: a pandas DataFrame or a sequence of dicts that have these three columns. Several rows of one bar (seeds) are
    averaged, with their range as a whisker. chance: a level drawn as a dashed line.
    """
    records: list[Mapping[str, Any]] = rows.to_dict("records") if hasattr(rows, "to_dict") else list(rows)
    if missing := [key for key in (setting, metric, value) if not records or key not in records[0]]:
        raise FusionerError(f"the rows have no {missing[0]!r}: expected the columns {setting!r}, {metric!r}, {value!r}")
    settings = list(dict.fromkeys(row[setting] for row in records))
    metrics = list(dict.fromkeys(row[metric] for row in records))
    with style():
        # Wide enough that two values side by side don't touch.
        result = figure(max(4.0, 1.2 + len(settings) * (0.45 * len(metrics) + 0.35)), 3.2)
        axes = result.subplots()
        width = 0.84 / len(metrics)
        highest = chance or 0.0
        for place, name in enumerate(metrics):
            for group, one in enumerate(settings):
                found = [float(row[value]) for row in records if row[setting] == one and row[metric] == name]
                if not found:
                    continue
                x, mean = group + (place - (len(metrics) - 1) / 2) * width, float(np.mean(found))
                spread = [[mean - min(found)], [max(found) - mean]] if len(found) > 1 else None
                written = label(str(name))
                once = "_" if any(bar.get_label() == written for bar in axes.containers) else written
                bars = axes.bar(
                    x, mean, width * 0.94, yerr=spread, color=f"C{place}", label=once, error_kw={"capsize": 2}
                )
                axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7.5)
                highest = max([highest, *(level for level in found if not math.isnan(level))])
        if chance is not None:
            axes.axhline(chance, color=GREY, linestyle="--", linewidth=1, label="chance")
        axes.set_xticks(range(len(settings)), [wrapped(str(one), 14, 3) for one in settings])
        axes.set_ylim(0, highest * 1.15 or 1)
        axes.set_title(title)
        if len(metrics) > 1 or chance is not None:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        else:
            axes.set_ylabel(str(metrics[0]))
        return result


def drawn(predictions: Iterable[Prediction], scenes: Scenes, *, threshold: float = 0.5) -> list[SceneRow]:
    """Answers about ``scenes``, at the size of these, ready for ``plots.scene_rows``."""
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


def answered(
    model: SegmentationModel,
    scenes: Scenes,
    stored: StoredScenes,
    text_cache: TextEmbeddingCache,
    queries: Sequence[Query],
    *,
    threshold: float = 0.5,
) -> list[SceneRow]:
    """``queries`` answered again by their stored features, with their images."""
    return drawn(predict(model, stored, text_cache, queries, quiet=True), scenes, threshold=threshold)
