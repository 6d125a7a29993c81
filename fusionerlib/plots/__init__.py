"""Figures of the workbook. Every function returns a matplotlib Figure and draws nothing by itself."""

from fusionerlib.plots.evaluation import SceneRow, ablation_bars, per_class_bars, scene_rows, scenes
from fusionerlib.plots.features import attention, cosine_matrix, pca_colours, pca_tokens, similarity
from fusionerlib.plots.protocols import confusion, risk_curve, triple
from fusionerlib.plots.robustness import kind_bars, robustness
from fusionerlib.plots.style import save, style
from fusionerlib.plots.training import curves

__all__ = [
    "SceneRow",
    "ablation_bars",
    "attention",
    "confusion",
    "cosine_matrix",
    "curves",
    "kind_bars",
    "pca_colours",
    "pca_tokens",
    "per_class_bars",
    "risk_curve",
    "robustness",
    "save",
    "scene_rows",
    "scenes",
    "similarity",
    "style",
    "triple",
]
