"""One training step: the schedules, the optimiser, and a batch in as many parts and processes as asked.

Learning rate and weight decay are pure functions of the step.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from fusionerlib.config import RunConfig, TrainingConfig
from fusionerlib.datasets.sampling import Sample
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel
from fusionerlib.models.losses import segmentation_loss
from fusionerlib.training.batch_sources import Batch
from fusionerlib.training.distributed import Distributed


def in_steps(run: RunConfig, *, pairs: int) -> RunConfig:
    """``run`` with ``steps`` and ``warmup`` as its epochs make them, where it has some: ceil(pairs / batch) each.

    pairs: the (scene, name) pairs that training goes through in an epoch.
    """
    config, epoch = run.training, math.ceil(pairs / run.training.batch)
    steps = {"steps": config.epochs * epoch} if config.epochs else {}
    warmup = {"warmup": config.warmup_epochs * epoch} if config.warmup_epochs else {}
    return run.model_copy(update={"training": config.model_copy(update={**steps, **warmup})})


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
    """Learning rate and weight decay of step ``step`` (from 0) in every group; returns the fusion's learning rate.

    The learning rate rises from 0 in the first step of the warm-up to its peak in the last, and falls by a cosine from
    the step after it (paper).
    """
    if step < config.warmup:
        lr = config.lr * step / max(1, config.warmup - 1)
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


AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 1024.0
"""Of the loss in fp16; it grows while no gradient overflows."""


class Stepper:
    """Takes ``model``, which is on the device of ``team``, from step to step as ``run.training`` says.

    share: this process's rows of every batch. Raises FusionerError where a batch can't be shared equally.
    """

    def __init__(
        self, model: SegmentationModel, *, run: RunConfig, text_cache: TextEmbeddingCache, team: Distributed
    ) -> None:
        self.model, self.config, self.text_cache, self.team = model, run.training, text_cache, team
        team.share(self.config.batch, parts=self.config.accumulate)
        self.optimiser = make_optimiser(model, self.config)
        # In fp16 the gradients of a mean over many pixels would vanish. torch's own first scale costs the first steps.
        self.scaler = torch.amp.GradScaler(
            team.device.type, init_scale=FIRST_SCALE, enabled=self.config.mixed_precision == "fp16"
        )
        # Not compiled in place: whoever measures the model does so at other sizes.
        compiled: nn.Module = torch.compile(model) if self.config.compile_fusion else model  # type: ignore[assignment]
        self.forward = team.parallel(compiled)

    def __call__(self, batch: Batch, step: int, *, whole: Sequence[Sample]) -> tuple[float, float]:
        """The loss of the whole step ``step`` (from 0), and the fusion's learning rate in it.

        batch: this process's share. whole: what is asked in all shares, in their order.
        """
        lr = set_schedule(self.optimiser, self.config, step)
        # Dropout and noise of a step depend on the step alone, not on how the run got there.
        seed = (self.config.seed + 1) * 1_000_003 + step
        torch.manual_seed(seed)
        # All processes draw the noise of the whole batch, so that it does not depend on their number; dropout does.
        text, names_mask = self._asked(whole)
        if self.team.index:
            torch.manual_seed(seed + self.team.index * 1_000_000_007)
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.team.device)
        # Of the whole batch, whatever share of it a forward pass sees.
        patches = rearrange(batch.tokens, "b h w d -> b (h w) d").to(self.team.device)
        self.model.update_statistics(self.team.gathered(patches, total=len(whole)))
        own = len(batch.samples)
        size = math.ceil(own / self.config.accumulate)
        for start in range(0, own, size):
            rows, last = slice(start, min(start + size, own)), start + size >= own
            # Gradients are averaged over processes, the loss over images, whose numbers differ in a smaller last batch.
            share = self.team.count * (rows.stop - start) / len(whole) if self.team.has_rows(len(whole)) else 0.0
            with nullcontext() if last else self.team.apart(self.forward):
                part = self._loss(batch.part(rows), text[rows], names_mask[rows]) * share
                self.scaler.scale(part).backward()
            loss += part.detach()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return float(self.team.mean(loss)), lr

    def _asked(self, whole: Sequence[Sample]) -> tuple[Float[Tensor, "batch names dim"], Bool[Tensor, "batch names"]]:
        """Text tokens of the own share, with their noise, and which of them are names and no padding."""
        text, names_mask = self.text_cache.padded([sample.names for sample in whole])
        if self.config.text_noise:
            text = text + torch.randn_like(text) * self.config.text_noise * text.shape[-1] ** -0.5
        rows = self.team.rows(len(whole))
        return text[rows], names_mask[rows]

    def _loss(
        self, batch: Batch, text: Float[Tensor, "batch names dim"], names_mask: Bool[Tensor, "batch names"]
    ) -> Float[Tensor, ""]:
        """The loss of ``batch``, with pixels thinned as the config says."""
        stride, device = self.config.loss_stride, self.team.device
        labels = batch.labels[:, ::stride, ::stride]
        dtype = AUTOCAST.get(self.config.mixed_precision)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = self.forward(
                rearrange(batch.tokens, "b h w d -> b (h w) d").to(device),
                text.to(device),
                grid=(batch.tokens.shape[1], batch.tokens.shape[2]),
                size=(labels.shape[-2], labels.shape[-1]),
                names_mask=None if bool(names_mask.all()) else names_mask.to(device),
            )
        return segmentation_loss(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            name_masks(labels, batch.names, batch.samples, names_mask.shape[1]).to(device),
            valid=(labels != 255).to(device),
            names_mask=names_mask.to(device),
            kind=self.config.loss,
        )


def name_masks(
    labels: UInt8[Tensor, "batch height width"],
    names: Sequence[tuple[str, ...]],
    samples: Sequence[Sample],
    count: int,
) -> Bool[Tensor, "batch names height width"]:
    """The mask of every asked name: all False for an absent one and for padding up to ``count`` names.

    names: those behind each scene's labels.
    """
    # Label 254 never occurs (a scene holds at most 253 names besides), so it stands for "not in this scene".
    index = torch.full((len(samples), count), 254, dtype=torch.uint8)
    for row, (labelled, sample) in enumerate(zip(names, samples, strict=True)):
        for column, name in enumerate(sample.names):
            if name in labelled:
                index[row, column] = labelled.index(name) + 1
    return labels[:, None] == index[:, :, None, None]
