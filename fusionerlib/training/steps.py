"""One training step: forward and backward pass of a batch, its loss, and the update of the weights."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from fusionerlib.checkpoints import is_finite, not_finite
from fusionerlib.config import RunConfig
from fusionerlib.datasets.sampling import Sample
from fusionerlib.errors import FusionerError
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel
from fusionerlib.models.losses import segmentation_loss
from fusionerlib.training.batch_sources import Batch
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.examples import TrainingExamples
from fusionerlib.training.optimisers import make_optimiser, set_schedule
from fusionerlib.training.rehearsal import Rehearsal


def in_steps(run: RunConfig, *, pairs: int) -> RunConfig:
    """``run`` with its epochs converted to steps, if it has any: an epoch has ceil(pairs / batch) steps.

    pairs: number of (scene, name) pairs.
    """
    config, epoch = run.training, math.ceil(pairs / run.training.batch)
    steps = {"steps": config.epochs * epoch} if config.epochs else {}
    warmup = {"warmup": config.warmup_epochs * epoch} if config.warmup_epochs else {}
    return run.model_copy(update={"training": config.model_copy(update={**steps, **warmup})})


@dataclass(frozen=True)
class StepInputs:
    """What the forward passes of a step see: this process's batch, its text tokens with noise, and torch's generator.

    names_mask: False for padding. rehearsed: text tokens of old names. rng: state of the processor's generator.
    """

    batch: Batch
    text: Float[Tensor, "batch names dim"]
    names_mask: Bool[Tensor, "batch names"]
    rehearsed: Float[Tensor, "old dim"] | None
    rng: UInt8[Tensor, " state"]


Stage = Literal["features", "text tokens", "weights", "loss", "gradient"]
"""Where NaN or infinity first appears in a step, in the order in which they are computed."""


class NonFiniteError(FusionerError):
    """NaN or infinity in a step, found before the weights were changed. stage: where it appeared first."""

    def __init__(self, stage: Stage, detail: str, inputs: StepInputs) -> None:
        super().__init__(f"{stage}: {detail}")
        self.stage, self.detail, self.inputs = stage, detail, inputs


AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 1024.0
"""First loss scale of fp16 training; it grows while no gradient overflows."""
LEAST_SCALE = 2.0**-14
"""Loss scale of fp16 training below which an overflow is not one of the scale: such a gradient is not finite."""


class Stepper:
    """Runs the training steps of ``model``, which is on the device of ``distributed``, as ``run.training`` says.

    Raises FusionerError if a batch can't be shared equally; a step raises NonFiniteError before it would change weights
    by something that is not finite.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        run: RunConfig,
        text_cache: TextEmbeddingCache,
        distributed: Distributed,
        rehearsal: Rehearsal | None = None,
        examples: TrainingExamples | None = None,
    ) -> None:
        self.rehearsal, self.examples = rehearsal, examples
        self.model, self.config, self.text_cache, self.distributed = model, run.training, text_cache, distributed
        distributed.share(self.config.batch, parts=self.config.accumulate)
        self.optimiser = make_optimiser(model, self.config)
        # In fp16 the gradients of a mean over many pixels underflow. torch's default first scale overflows at first.
        self.scaler = torch.amp.GradScaler(
            distributed.device.type, init_scale=FIRST_SCALE, enabled=self.config.mixed_precision == "fp16"
        )
        # Not compiled in place: evaluation calls the model with other sizes.
        compiled: nn.Module = torch.compile(model) if self.config.compile_fusion else model  # type: ignore[assignment]
        self.forward = distributed.parallel(compiled)

    def __call__(self, batch: Batch, step: int, *, whole: Sequence[Sample]) -> tuple[float, float]:
        """Do step ``step`` (from 0); returns its loss over the whole batch and the fusion's learning rate.

        batch: this process's share. whole: the samples of all shares, in the order of the processes.
        """
        lr = set_schedule(self.optimiser, self.config, step)
        # Dropout and noise are a function of the step, so that a resumed run is bit-equal.
        seed = (self.config.seed + 1) * 1_000_003 + step
        torch.manual_seed(seed)
        # All processes draw the noise of the whole batch: it does not depend on their number (dropout does).
        text, names_mask = self._text(whole, step)
        if self.distributed.index:
            torch.manual_seed(seed + self.distributed.index * 1_000_000_007)
        rehearsed = None if self.rehearsal is None else self.rehearsal.text_tokens(step)
        inputs = StepInputs(batch, text, names_mask, rehearsed, torch.get_rng_state())
        self._check_inputs(inputs)
        # Statistics are those of the whole batch, also where a forward pass sees a part of it.
        if self.rehearsal is None:
            patches = rearrange(batch.tokens, "b h w d -> b (h w) d").to(self.distributed.device)
            self.model.update_statistics(self.distributed.gather(patches, total=len(whole)))
        loss = float(self.distributed.mean(self.backward(inputs, total=len(whole))))
        self.check(loss, inputs)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss, lr

    def backward(self, inputs: StepInputs, *, total: int) -> Float[Tensor, ""]:
        """The loss of this process's share, weighted so that its mean over processes is the batch's; sets gradients.

        total: samples of all shares.
        """
        batch, text, names_mask = inputs.batch, inputs.text, inputs.names_mask
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.distributed.device)
        own, has_rows = len(batch.samples), self.distributed.has_rows(total)
        size = math.ceil(own / self.config.accumulate)
        for start in range(0, own, size):
            rows, last = slice(start, min(start + size, own)), start + size >= own
            # Gradients are averaged over processes, the loss over images: processes differ in number of images.
            weight = self.distributed.count * (rows.stop - start) / total if has_rows else 0.0
            with nullcontext() if last else self.distributed.no_sync(self.forward):
                part = self.loss(batch.part(rows), text[rows], names_mask[rows], inputs.rehearsed) * weight
                self.scaler.scale(part).backward()
            loss += part.detach()
        return loss

    def _check_inputs(self, inputs: StepInputs) -> None:
        """Raises NonFiniteError in every process where one of them has features or text tokens that are not finite."""
        stage = input_stage(inputs)
        bad = torch.tensor(float(stage is not None), device=self.distributed.device)
        if float(self.distributed.mean(bad)) > 0:
            raise NonFiniteError(stage or "features", "NaN or infinity in what the model is given", inputs)

    def check(self, loss: float, inputs: StepInputs) -> None:
        """Raises NonFiniteError for a ``loss`` or a gradient that is not finite."""
        if not math.isfinite(loss):
            if broken := not_finite(dict(self.model.named_parameters())):
                raise NonFiniteError("weights", broken, inputs)
            raise NonFiniteError("loss", f"it is {loss}", inputs)
        self.scaler.unscale_(self.optimiser)
        gradients = {name: weight.grad for name, weight in self.model.named_parameters() if weight.grad is not None}
        if math.isfinite(float(nn.utils.get_total_norm(gradients.values()))):
            return
        # In fp16 a gradient that the scale made too large is no error: the step is left out, and the scale halved.
        if self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE:
            return
        raise NonFiniteError("gradient", not_finite(gradients) or "its length is too large for float32", inputs)

    def _text(
        self, whole: Sequence[Sample], step: int
    ) -> tuple[Float[Tensor, "batch names dim"], Bool[Tensor, "batch names"]]:
        """Text tokens of this process's share, with noise and with examples; the mask is False for padding."""
        text, names_mask = self.text_cache.padded([sample.names for sample in whole])
        if self.config.text_noise:
            text = text + torch.randn_like(text) * self.config.text_noise * text.shape[-1] ** -0.5
        if self.examples is not None:
            asked = [(sample.scene, sample.names) for sample in whole]
            known = self.examples.of_samples(asked, text.shape[1], seed=(self.config.seed, 3, step))
            text = torch.cat([text, known], dim=-1)
        rows = self.distributed.rows(len(whole))
        return text[rows], names_mask[rows]

    def loss(
        self,
        batch: Batch,
        text: Float[Tensor, "batch names dim"],
        names_mask: Bool[Tensor, "batch names"],
        rehearsed: Float[Tensor, "old dim"] | None,
    ) -> Float[Tensor, ""]:
        """The loss of ``batch`` on every ``loss_stride``-th pixel of both axes. rehearsed: text tokens of old names."""
        stride, device = self.config.loss_stride, self.distributed.device
        labels = batch.labels[:, ::stride, ::stride]
        asked = text.shape[1]
        if rehearsed is not None:  # in the same forward pass: a model may let its names attend to each other
            text = torch.cat([text.to(device), rehearsed.to(device).expand(len(text), -1, -1)], dim=1)
            names_mask = F.pad(names_mask, (0, len(rehearsed)), value=True)
        dtype = AUTOCAST.get(self.config.mixed_precision)
        patches = rearrange(batch.tokens, "b h w d -> b (h w) d").to(device)
        grid, size = (batch.tokens.shape[1], batch.tokens.shape[2]), (labels.shape[-2], labels.shape[-1])
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = self.forward(
                patches,
                text.to(device),
                grid=grid,
                size=size,
                names_mask=None if bool(names_mask.all()) else names_mask.to(device),
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        masks = name_masks(labels, batch.names, batch.samples, asked).to(device)
        target = None
        if self.rehearsal is not None:
            target = self.rehearsal.probabilities(patches, text[:, asked:].to(device), grid=grid, size=size)
        loss = torch.zeros((), device=device)
        # A model with examples gives the logits of all names twice: of their text alone, and with their examples.
        for path, part in enumerate(logits.split(text.shape[1], dim=1)):
            loss = loss + segmentation_loss(
                part[:, :asked],
                masks,
                valid=(labels != 255).to(device),
                names_mask=names_mask[:, :asked].to(device),
                kind=self.config.loss,
            )
            if self.rehearsal is not None and target is not None:
                old = target.split(text.shape[1] - asked, dim=1)[path]
                loss = loss + self.rehearsal.weight * F.binary_cross_entropy_with_logits(part[:, asked:], old)
        return loss


def input_stage(inputs: StepInputs) -> Stage | None:
    """Which of the inputs holds NaN or infinity, None where none does."""
    if not is_finite(inputs.batch.tokens):
        return "features"
    given = (inputs.text, *(() if inputs.rehearsed is None else (inputs.rehearsed,)))
    return None if all(map(is_finite, given)) else "text tokens"


def name_masks(
    labels: UInt8[Tensor, "batch height width"],
    names: Sequence[tuple[str, ...]],
    samples: Sequence[Sample],
    count: int,
) -> Bool[Tensor, "batch names height width"]:
    """The mask of every asked name; all False for an absent name and for padding up to ``count`` names.

    names: the names of each scene's labels.
    """
    # Label 254 never occurs (a scene has at most 253 names), so it stands for "not in this scene".
    index = torch.full((len(samples), count), 254, dtype=torch.uint8)
    for row, (labelled, sample) in enumerate(zip(names, samples, strict=True)):
        for column, name in enumerate(sample.names):
            if name in labelled:
                index[row, column] = labelled.index(name) + 1
    return labels[:, None] == index[:, :, None, None]
