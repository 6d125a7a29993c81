"""Figures of the workbook. Every function returns a matplotlib Figure and draws nothing by itself."""

from fusionerlib.plots.evaluation import SceneRow, ablation_bars, assignment_matrix, per_class_bars, scene_rows, scenes
from fusionerlib.plots.features import attention, cosine_matrix, pca_colours, pca_tokens, similarity
from fusionerlib.plots.style import save, style
from fusionerlib.plots.training import curves

__all__ = [
    "SceneRow",
    "ablation_bars",
    "assignment_matrix",
    "attention",
    "cosine_matrix",
    "curves",
    "pca_colours",
    "pca_tokens",
    "per_class_bars",
    "save",
    "scene_rows",
    "scenes",
    "similarity",
    "style",
]
