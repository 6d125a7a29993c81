"""The packaged pair brought into one space: what each patch looks like, said in the words of the text encoder.

The ImageNet classifier that comes with EfficientNet-Lite0 is asked at every patch; the answer, its probabilities, mixes
MiniLM's embeddings of the 1000 classes into one vector (ConSE: Norouzi et al., ICLR 2014, there for whole images). So a
patch may be compared with any name, though neither tower ever saw the other. No image is used to make the embeddings
(``imagenet_words.safetensors``): they are means over a class's names and its definition in WordNet, as timm has them.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn

from fusionerlib.encoders.base import TextEncoder
from fusionerlib.encoders.hypernyms import BANK, CLASSES, kinds
from fusionerlib.encoders.row import EncoderRow, Loading
from fusionerlib.encoders.towers import TextTower

TEMPERATURE = {"worded": 2.0, "classes": 3.0}
"""Logits are divided by this before the softmax: several classes have a say in what a patch looks like."""
SHARE, RAREST = 0.5, -12.0
"""How much the whole image's log probabilities count at each of its patches, and the least that they are taken for."""
AFFINITY = 0.05
"""A name's likenesses to the classes are divided by this before the softmax."""


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


def word_bank(part: Literal["words", "kinds"] = "words") -> Float[Tensor, "count dim"]:
    """The packaged embeddings of ImageNet's classes, or of their hypernyms; unit length, float32."""
    file = resources.files("fusionerlib.encoders") / BANK
    return F.normalize(load(file.read_bytes())[part].float(), dim=-1)


class Worded(nn.Module):
    """Patch tokens that carry words, at stride 16: 432 visual channels, then what the classifier says of the patch.

    tokens: ``worded`` says it in 384 channels of MiniLM's space, ``classes`` in the 1000 probabilities themselves.
    backbone: pixels to the maps of ``EfficientNetLite0``. classifier: the whole network, whose head is used. The
    stride-32 features are enlarged before the head, so that it answers at every stride-16 patch. In MiniLM's space an
    answer without a favourite gives a short vector: the mean of all classes is taken off.
    """

    words: Tensor
    head: nn.Module
    norm: nn.Module
    classifier: nn.Linear

    def __init__(self, backbone: Any, classifier: Any, *, tokens: str) -> None:
        super().__init__()
        self.backbone, self.tokens = backbone, tokens
        self.head, self.norm, self.classifier = classifier.conv_head, classifier.bn2, classifier.classifier
        bank = word_bank()
        self.register_buffer("words", bank - bank.mean(0))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Feature maps: the one that ``tokens`` names, and those of the backbone."""
        maps, coarse = self.backbone.features(pixels)
        fine = maps["joined"]
        raised = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = F.conv2d(self._features(raised), self.classifier.weight[:, :, None, None], self.classifier.bias)
        # A patch alone is easily taken for anything; the answer for the whole image says what is likely to be there.
        whole = self.classifier(self._features(coarse).mean((2, 3))).log_softmax(1).clamp(min=RAREST)
        said = (logits / TEMPERATURE[self.tokens] + SHARE * whole[:, :, None, None]).softmax(1)
        if self.tokens == "worded":
            said = torch.einsum("bkhw,kd->bdhw", said, self.words.to(logits.dtype))
        return {self.tokens: torch.cat([fine, said], dim=1), **maps}

    def _features(self, stage7: Tensor) -> Tensor:
        """The 1280 channels that the classifier reads."""
        features: Tensor = self.norm(self.head(stage7))
        return features


class ClassWords(TextTower):
    """A name as a distribution over ImageNet's classes: the softmax of its likeness to each. Unit length.

    Likeness is the cosine with the class's embedding or with that of one of its hypernyms, whichever is larger, so
    "dog" means every breed. Words averaged later make a mixture: "a suit or a jersey or jeans".
    """

    words: Tensor
    kinds: Tensor
    members: Tensor

    def __init__(self, network: nn.Module, *, row: EncoderRow, how: Loading, fingerprint: str) -> None:
        fingerprint = f"{fingerprint} {bank_digest()} {AFFINITY}"
        super().__init__(network, row=row, how=how, width=CLASSES, fingerprint=fingerprint)
        for part in ("words", "kinds"):
            bank = word_bank(part)
            self.register_buffer(part, F.normalize(bank - bank.mean(0), dim=-1).to(how.device))
        _, each = kinds()
        most = max(map(len, each))
        # Rows of one length: a class's first hypernym stands in for those that it lacks.
        filled = [own + own[:1] * (most - len(own)) for own in each]
        self.register_buffer("members", torch.tensor(filled, device=how.device))

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "sentences classes"]:
        """The distribution of each sentence, float32."""
        said = F.normalize(super().embed(sentences), dim=-1)
        likeness = torch.stack([_likeness(row, self.words, self.kinds, self.members) for row in said])
        return (likeness / AFFINITY).softmax(-1)


def _likeness(said: Tensor, words: Tensor, kinds: Tensor, members: Tensor) -> Tensor:
    return torch.maximum(words @ said, (kinds @ said)[members].amax(1))


@cache
def _imagenet() -> Any:
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k")
