"""What a training image costs: floating-point operations of the trained part, counted and not timed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fusionerlib.config import RunConfig
from fusionerlib.frozen.pair import visual_of, words_of
from fusionerlib.fusion import build
from fusionerlib.transfer.study import BASE, TransferStudy, Trial


def training_cost(run: RunConfig, *, visual_width: int, text_width: int, stride: int = 16) -> dict[str, int]:
    """Forward and backward FLOPs (two a multiply-add) of one training image at ``run.data.size``, its names included,
    and the trainable parameters. Products of matrices and convolutions count, what is done pixel by pixel does not.

    visual_width, text_width: channels of the frozen tokens; stride: pixels a token.
    """
    training, size = run.training, run.data.size
    names, loss = training.positives + training.negatives, -(-size // training.loss_stride)
    model = build(run.fusion, visual_width=visual_width, text_width=text_width).train()
    patches, words = torch.rand(1, (size // stride) ** 2, visual_width), torch.rand(1, names, text_width)
    with FlopCounterMode(display=False) as counter:
        logits = model(patches, words, grid=(size // stride, size // stride), size=(loss, loss))
        logits.sum().backward()
    return {"flops": counter.get_total_flops(), "parameters": model.trainable()["total"], "names": names}


def gigaflops(study: TransferStudy, settings: Iterable[str]) -> dict[str, float]:
    """GFLOPs of a training image by setting, at the setting's own size and names."""
    runs = {name: study.run_of(Trial(name, study.folds[0], study.seeds[0], 1)) for name in settings}
    return {name: cost["flops"] / 1e9 for name, cost in costs(runs).items()}


def costs(runs: Mapping[str, RunConfig]) -> dict[str, dict[str, int]]:
    """``training_cost`` of each of ``runs``, with the widths of its own encoders, which are loaded for it."""
    widths = {run.pair: (visual_of(run.pair).width, words_of(run.pair).encoder.width) for run in runs.values()}
    return {
        name: training_cost(run, visual_width=widths[run.pair][0], text_width=widths[run.pair][1])
        for name, run in runs.items()
    }


def compared_costs(study: TransferStudy) -> list[dict[str, Any]]:
    """``modern`` beside the paper's module at 224 pixels, both on the packaged pair: parameters, names an image, GFLOPs
    a training image, and percent of the paper's."""
    modern = study.model_copy(update={"size": 224}).run_of(Trial(BASE, study.folds[0], 0, 1))
    paper = RunConfig.flat(preset="bmvc2022", recipe="bmvc2022", size=224)
    found = costs({BASE: modern, "bmvc2022": paper})
    whole = found["bmvc2022"]["flops"]
    return [
        {
            "config": name,
            "parameters": cost["parameters"],
            "names": cost["names"],
            "GFLOPs": round(cost["flops"] / 1e9, 2),
            "% of the paper's": round(100 * cost["flops"] / whole, 2),
        }
        for name, cost in found.items()
    ]
