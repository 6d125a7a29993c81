"""Training losses on logits and binary masks, with ignored pixels and padding names left out."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def segmentation_loss(
    logits: Float[Tensor, "batch names height width"],
    masks: Bool[Tensor, "batch names height width"],
    *,
    valid: Bool[Tensor, "batch height width"],
    names_mask: Bool[Tensor, "batch names"],
    kind: Literal["bce", "bce+dice", "focal+dice"] = "bce",
) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over an image's valid pixels and names, then over the batch's images (paper).

    valid: False for ignored pixels. names_mask: False for padding names. ``bce+dice`` adds 1 - the soft Dice
    coefficient of every name that is in the image, averaged likewise. ``focal`` weighs each pixel's cross-entropy by
    (1 - p)^2, p the probability of the right answer (Lin et al., ICCV 2017).
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
    return loss + ((dice * present).sum(1) / present.sum(1).clamp(min=1)).mean()
