"""AdamW with the paper's parameter groups and schedules, as a pure function of the step."""

import math

import torch

from fusionerlib.config import TrainingConfig
from fusionerlib.fusion import SegmentationModel


def make_optimiser(model: SegmentationModel, config: TrainingConfig) -> torch.optim.AdamW:
    """Three groups: fusion weights, fusion biases and norms (never decayed), decoder.

    AdamW without decay is Adam, so the paper's two optimisers are groups of one.
    """
    decoder = model.decoder_parameters()
    mine = {id(parameter) for parameter in decoder}
    fusion = [parameter for parameter in model.parameters() if id(parameter) not in mine]
    unplain = {id(parameter) for parameter in model.undecayed()}
    plain = [parameter for parameter in fusion if id(parameter) in unplain]
    groups = [
        {
            "params": [parameter for parameter in fusion if id(parameter) not in unplain],
            "decayed": True,
            "fixed": False,
        },
        {"params": plain, "decayed": False, "fixed": False},
        {"params": decoder, "decayed": not config.decoder_constant, "fixed": config.decoder_constant},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), weight_decay=0.0)


def set_schedule(optimiser: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    """Learning rate and weight decay of step ``step`` (from 0) in every group; returns the fusion's learning rate."""
    if step < config.warmup:
        lr = config.lr * step / config.warmup
    else:
        lr = cosine(config.lr, config.final_lr, (step - config.warmup) / max(1, config.steps - config.warmup))
    decay = cosine(config.weight_decay, config.final_weight_decay, step / config.steps)
    for group in optimiser.param_groups:
        group["lr"] = config.lr if group["fixed"] else lr
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return lr


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` (progress 0) to ``end`` (progress 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
