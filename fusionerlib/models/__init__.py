"""The trainable models behind one interface: frozen patch and text tokens in, logits out."""

from fusionerlib.config import FusionConfig
from fusionerlib.models.base import SegmentationModel
from fusionerlib.models.baselines import LSeg, SPNet, TrainingFree
from fusionerlib.models.cost_aggregation import CostAggregation
from fusionerlib.models.fusioner import Fusioner, LateFusion

MODELS: dict[str, type[SegmentationModel]] = {
    "fusioner": Fusioner,
    "late": LateFusion,
    "cost_aggregation": CostAggregation,
    "lseg": LSeg,
    "spnet": SPNet,
    "training_free": TrainingFree,
}
"""Class of each ``FusionConfig.kind``."""


def build(config: FusionConfig, *, visual_width: int, text_width: int) -> SegmentationModel:
    """The model that ``config`` describes, initialised from torch's global random generator.

    visual_width, text_width: channels of the frozen patch and text tokens.
    """
    return MODELS[config.kind](config, visual_width=visual_width, text_width=text_width)


__all__ = [
    "MODELS",
    "CostAggregation",
    "Fusioner",
    "LSeg",
    "LateFusion",
    "SPNet",
    "SegmentationModel",
    "TrainingFree",
    "build",
]
