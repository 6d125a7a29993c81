"""Figures. Every function returns a matplotlib ``Figure``; none displays or saves it."""

from fusionerlib.plots.features import attention, cosine_matrix, heat_rows, pca_colours, pca_tokens, similarity
from fusionerlib.plots.metrics import ablation_bars, curves, kind_bars, per_class_bars, robustness
from fusionerlib.plots.protocols import confusion, risk_curve, triple
from fusionerlib.plots.scenes import SceneRow, prediction_rows, scene_rows, scenes, segmented_rows
from fusionerlib.plots.shapes import shapes
from fusionerlib.plots.style import save, style

__all__ = [
    "SceneRow",
    "ablation_bars",
    "attention",
    "confusion",
    "cosine_matrix",
    "curves",
    "heat_rows",
    "kind_bars",
    "pca_colours",
    "pca_tokens",
    "per_class_bars",
    "prediction_rows",
    "risk_curve",
    "robustness",
    "save",
    "scene_rows",
    "scenes",
    "segmented_rows",
    "shapes",
    "similarity",
    "style",
    "triple",
]
