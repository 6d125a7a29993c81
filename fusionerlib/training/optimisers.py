"""The optimisers, with the paper's parameter groups, and the schedules of learning rate and weight decay."""

import math

import torch
from torch import Tensor, nn

from fusionerlib.config import TrainingConfig
from fusionerlib.models import SegmentationModel

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial that Muon iterates: five iterations bring singular values near 1."""
ITERATIONS = 5
LENGTH = 0.8
"""Root mean square of Muon's update of a weight, as a multiple of the learning rate."""


def make_optimiser(model: SegmentationModel, config: TrainingConfig) -> torch.optim.AdamW:
    """``config.optimiser`` with three parameter groups: fusion weights, fusion biases and norms (no weight decay), and
    the decoder.

    The paper trains the fusion with AdamW and the decoder with Adam; AdamW without weight decay is Adam.
    """
    decoder = model.decoder_parameters()
    in_decoder = {id(parameter) for parameter in decoder}
    undecayed = {id(parameter) for parameter in model.undecayed(category=not config.decay_category)}
    fusion = [parameter for parameter in model.parameters() if id(parameter) not in in_decoder]
    weights = [parameter for parameter in fusion if id(parameter) not in undecayed]
    others = [parameter for parameter in fusion if id(parameter) in undecayed]
    groups = [
        {"params": weights, "decayed": True, "fixed": False},
        {"params": others, "decayed": False, "fixed": False},
        {"params": decoder, "decayed": not config.decoder_constant, "fixed": config.decoder_constant},
    ]
    kind = Muon if config.optimiser == "muon" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=(0.9, 0.999), weight_decay=0.0)


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for matrices and the kernels of convolutions, AdamW for vectors and scalars.

    Muon moves a matrix along its momentum with all singular values set to about 1, so that directions in which
    gradients are small are learnt as fast as the others. A kernel of shape (out, in, height, width) is a matrix of
    out rows. All parameters share one learning rate: an update of AdamW has a root mean square of about 0.2 (Liu et
    al., 2025), and Muon's of ``LENGTH`` was the best on drawn scenes at AdamW's learning rate.

    ``torch.optim.Muon`` takes no kernels, needs a second optimiser beside it, and multiplies in bfloat16, which
    processors without it do slowly.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        done: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and _is_matrix(parameter):
                    self._move(parameter, lr=group["lr"], weight_decay=group["weight_decay"])
                    done.append((parameter, parameter.grad))
                    parameter.grad = None  # AdamW leaves a parameter without a gradient as it is
        super().step(closure)
        for parameter, gradient in done:
            parameter.grad = gradient

    def _move(self, parameter: nn.Parameter, *, lr: float, weight_decay: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}  # AdamW counts steps so
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
        update = orthogonal(ahead) * (LENGTH * math.sqrt(max(ahead.shape)))
        parameter.mul_(1 - lr * weight_decay).sub_(update.view_as(parameter), alpha=lr)


def orthogonal(matrix: Tensor) -> Tensor:
    """``matrix`` with its singular values replaced by values near 1 (0.7 to 1.2), by Newton-Schulz iterations.

    Those below a five-hundredth of its Frobenius norm stay smaller.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    unit = wide / wide.norm().clamp(min=1e-7)
    first, third, fifth = NEWTON_SCHULZ
    # Each iteration multiplies the matrix by a polynomial of its Gram matrix. The polynomials are multiplied first:
    # they are small and square, and commute.
    gram, factors = unit @ unit.T, None
    for _ in range(ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
        factor.diagonal().add_(first)
        gram = factor @ gram @ factor
        factors = factor if factors is None else factor @ factors
    assert factors is not None
    found = factors @ unit
    return found if wide is matrix else found.T


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) > 1


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The fusion's learning rate in step ``step`` (from 0).

    Linear from 0 in the first step to lr in the last step of the warm-up (``peak_in_warmup``, the authors' runs) or in
    the step after it, then a cosine to final_lr (paper).
    """
    if step < config.warmup:
        return config.lr * step / max(1, config.warmup - config.peak_in_warmup)
    return cosine(config.lr, config.final_lr, (step - config.warmup) / max(1, config.steps - config.warmup))


def set_schedule(optimiser: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    """Set the learning rate and weight decay of step ``step`` (from 0); returns the fusion's ``learning_rate``.

    Weight decay: a cosine to final_weight_decay.
    """
    lr = learning_rate(config, step)
    decay = cosine(config.weight_decay, config.final_weight_decay, step / config.steps)
    for group in optimiser.param_groups:
        group["lr"] = config.lr if group["fixed"] else lr
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return lr


def cosine(start: float, end: float, progress: float) -> float:
    """The value at ``progress`` (0-1): end + (start - end) * (1 + cos(pi * progress)) / 2."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
