"""Training losses on logits and binary masks, without ignored pixels and padding names."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fusionerlib.models.base import Logits, NamesMask


def segmentation_loss(
    logits: Logits,
    masks: Bool[Tensor, "batch names height width"],
    *,
    valid: Bool[Tensor, "batch height width"],
    names_mask: NamesMask,
    kind: Literal["bce", "bce+dice", "focal+dice"] = "bce",
) -> Float[Tensor, ""]:
    """Binary cross-entropy: mean over an image's valid pixels and names, then over the images of the batch (paper).

    valid: False for ignored pixels. names_mask: False for padding names.
    ``dice`` adds 1 - the soft Dice coefficient, mean over the names that an image shows, then over images. ``focal``
    weighs the cross-entropy of a pixel by (1 - p)^2, p the probability of the right answer (Lin et al., ICCV 2017).
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
