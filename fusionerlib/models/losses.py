"""Training losses on logits and binary masks, without ignored pixels and padding names."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fusionerlib.models.base import Logits, NamesMask

Loss = Literal["bce", "bce+dice", "focal+dice", "bce+dice+softmax"]


def segmentation_loss(
    logits: Logits,
    masks: Bool[Tensor, "batch names height width"],
    *,
    valid: Bool[Tensor, "batch height width"],
    names_mask: NamesMask,
    kind: Loss = "bce",
) -> Float[Tensor, ""]:
    """Binary cross-entropy: mean over an image's valid pixels and names, then over the images of the batch (paper).

    valid: False for ignored pixels. names_mask: False for padding names.
    ``dice`` adds 1 - the soft Dice coefficient, mean over the names that an image shows, then over images. ``focal``
    weighs the cross-entropy of a pixel by (1 - p)^2, p the probability of the right answer (Lin et al., ICCV 2017).
    ``softmax`` adds the cross-entropy of each pixel between its name, the other names and none of them (logit 0), mean
    over the batch's valid pixels: at test time the name with the largest logit wins, none where all are negative.
    """
    target = masks.to(logits.dtype)
    weight = (valid[:, None] & names_mask[:, :, None, None]).to(logits.dtype)
    pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if kind == "focal+dice":
        pixels = pixels * (1 - (-pixels).exp()) ** 2
    pixels = pixels * weight
    loss: Tensor = (pixels.sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1)).mean()
    if kind == "bce":
        return loss
    probabilities, inside = logits.sigmoid() * weight, target * weight
    overlap = 2 * (probabilities * inside).sum((2, 3))
    dice = 1 - (overlap + 1) / (probabilities.sum((2, 3)) + inside.sum((2, 3)) + 1)
    present = (inside.sum((2, 3)) > 0).to(logits.dtype)
    loss = loss + ((dice * present).sum(1) / present.sum(1).clamp(min=1)).mean()
    if kind != "bce+dice+softmax":
        return loss
    named = masks & names_mask[:, :, None, None]
    winner = torch.where(named.any(1), named.float().argmax(1) + 1, 0).masked_fill(~valid, -100)
    logits = logits.masked_fill(~names_mask[:, :, None, None], -torch.inf)
    return loss + F.cross_entropy(F.pad(logits, (0, 0, 0, 0, 1, 0)), winner, reduction="sum") / valid.sum().clamp(min=1)
