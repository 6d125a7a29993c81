"""The visual decoder and the cosine head of the paper, as its table describes them.

This is the definition. The models use ``fast_decoder``, which computes the same values in less than half the time; a
test compares the two.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.models.base import FeatureMap, Logits, Size, TextFeatures

INSTANCE_NORM_EPS = 1e-5


def resize(
    maps: Float[Tensor, "batch channels height width"], size: Size
) -> Float[Tensor, "batch channels newheight newwidth"]:
    """Bilinear, ``align_corners=False``: used wherever features or logits are resized (paper)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def instance_norm(maps: FeatureMap) -> FeatureMap:
    """Each channel of each image to mean 0 and variance 1, as ``F.instance_norm``.

    Not by ``F.instance_norm``: in torch 2.14 its gradient on a CPU is wrong for one image whose gradient comes channels
    last.
    """
    variance, mean = torch.var_mean(maps, dim=(2, 3), correction=0, keepdim=True)
    return (maps - mean) / (variance + INSTANCE_NORM_EPS).sqrt()


class Decoder(nn.Module):
    """3x3 convolutions with InstanceNorm (no affine, no running statistics) and ReLU, then one 1x1 convolution.

    width: channels of the input and the output. inner: channels in between. scales: after convolution i the map is
    resized to ``scales[i]`` times the patch grid; there is one more convolution than scales.
    """

    def __init__(self, *, width: int, inner: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner if index else width, inner, 3, padding=1) for index in range(len(scales) + 1)
        )
        self.last = nn.Conv2d(inner, width, 1)

    def forward(self, patches: Float[Tensor, "batch patches channels"], *, grid: Size) -> FeatureMap:
        """Patch tokens, row by row over ``grid`` (rows, columns), to features at ``scales[-1]`` times the grid."""
        features = rearrange(patches, "b (h w) c -> b c h w", h=grid[0], w=grid[1])
        for scale, convolution in zip((1, *self.scales), self.convolutions, strict=True):
            features = convolution(resize(features, (grid[0] * scale, grid[1] * scale)))
            features = F.relu(instance_norm(features))
        decoded: Tensor = self.last(features)
        return decoded


def cosine_logits(features: FeatureMap, text: TextFeatures, *, temperature: float, size: Size | None = None) -> Logits:
    """Cosine between the feature of every pixel and every name, divided by ``temperature``.

    size: height and width that the features are resized to first; None keeps theirs.
    """
    if size is not None:
        features = resize(features, size)
    unit = F.normalize(features, dim=1)
    return torch.einsum("bchw,bkc->bkhw", unit, F.normalize(text, dim=-1)) / temperature
