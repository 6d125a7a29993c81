"""The packaged pair brought into one space: what each patch looks like, said in the words of the text encoder.

The ImageNet classifier that comes with EfficientNet-Lite0 is asked at every patch; the answer, its probabilities, mixes
MiniLM's embeddings of the 1000 classes into one vector (ConSE: Norouzi et al., ICLR 2014, there for whole images). So a
patch may be compared with any name, though neither tower ever saw the other. No image is used to make the embeddings
(``imagenet_words.safetensors``): they are means over a class's names and its definition in WordNet, as timm has them.
"""

import hashlib
from functools import cache
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn

from fusionerlib.encoders.base import TextEncoder

BANK = "imagenet_words.safetensors"
TEMPERATURE = 2.0
"""Logits are divided by this before the softmax: several classes have a say in what a patch looks like."""
SHARE, RAREST = 0.5, -12.0
"""How much the whole image's log probabilities count at each of its patches, and the least that they are taken for."""


def class_texts(number: int) -> list[str]:
    """What is said of class ``number`` (0-999) of ImageNet: two of its names, all of them, its definition, and both."""
    info = _imagenet()
    names, whole = info.index_to_description(number), info.index_to_description(number, detailed=True)
    each = names.split(", ")
    return [each[0], each[-1], names, whole.split(": ", 1)[1], whole]


def embedded(text: TextEncoder, numbers: list[int]) -> Float[Tensor, "classes dim"]:
    """The unit-length mean of the embeddings of each class's texts: what the packaged file holds for all 1000."""
    groups = [class_texts(number) for number in numbers]
    rows = text([sentence for group in groups for sentence in group], ["{}"]).float()
    return F.normalize(torch.stack([part.mean(0) for part in rows.split([len(group) for group in groups])]), dim=-1)


def bank_digest() -> str:
    """Hex sha256 of the packaged file."""
    return hashlib.sha256((resources.files("fusionerlib.encoders") / BANK).read_bytes()).hexdigest()


def word_bank() -> Float[Tensor, "1000 dim"]:
    """The packaged embeddings of ImageNet's classes, unit length, float32."""
    file = resources.files("fusionerlib.encoders") / BANK
    return F.normalize(load(file.read_bytes())["words"].float(), dim=-1)


class Worded(nn.Module):
    """Patch tokens that carry words: 432 visual channels, then 384 in MiniLM's space, at stride 16.

    backbone: pixels to the maps of ``EfficientNetLite0``. classifier: the whole network, whose head is used. The
    stride-32 features are enlarged before the head, so that it answers at every stride-16 patch. An answer without a
    favourite gives a short vector: the mean of all classes is taken off.
    """

    words: Tensor
    head: nn.Module
    norm: nn.Module
    classifier: nn.Linear

    def __init__(self, backbone: Any, classifier: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.head, self.norm, self.classifier = classifier.conv_head, classifier.bn2, classifier.classifier
        bank = word_bank()
        self.register_buffer("words", bank - bank.mean(0))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Feature maps ``worded`` (816 channels, the last 384 of them words), and those of the backbone."""
        maps, coarse = self.backbone.features(pixels)
        fine = maps["joined"]
        raised = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = F.conv2d(self._features(raised), self.classifier.weight[:, :, None, None], self.classifier.bias)
        # A patch alone is easily taken for anything; the answer for the whole image says what is likely to be there.
        whole = self.classifier(self._features(coarse).mean((2, 3))).log_softmax(1).clamp(min=RAREST)
        likely = (logits / TEMPERATURE + SHARE * whole[:, :, None, None]).softmax(1)
        said = torch.einsum("bkhw,kd->bdhw", likely, self.words.to(logits.dtype))
        return {"worded": torch.cat([fine, said], dim=1), **maps}

    def _features(self, stage7: Tensor) -> Tensor:
        """The 1280 channels that the classifier reads."""
        features: Tensor = self.norm(self.head(stage7))
        return features


@cache
def _imagenet() -> Any:
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k")
