"""The visual decoder (fused patch tokens to a finer feature map) and the cosine head."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

INSTANCE_NORM_EPS = 1e-5


def resize(
    features: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels newheight newwidth"]:
    """Bilinear, ``align_corners=False``: the one way that everything is resized (paper)."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """One more 3x3 convolution than ``scales``, each with InstanceNorm (no affine, no statistics) and ReLU.

    inner: channels between the first convolution and the last. After convolution i the map is resized to ``scales[i]``
    times the token grid; a 1x1 convolution closes.
    """

    def __init__(self, *, width: int, inner: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner if index else width, inner, 3, padding=1) for index in range(len(scales) + 1)
        )
        self.last = nn.Conv2d(inner, width, 1)

    def forward(
        self, patches: Float[Tensor, "batch patches width"], *, grid: tuple[int, int]
    ) -> Float[Tensor, "batch width height width2"]:
        """Patch tokens, row by row over ``grid`` (height, width), to features at ``scales[-1]`` times the grid."""
        features = rearrange(patches, "b (h w) c -> b c h w", h=grid[0], w=grid[1])
        # On a CPU the convolutions run a fifth faster this way.
        features = features.contiguous(memory_format=torch.channels_last)
        for index, convolution in enumerate(self.convolutions):
            features = F.relu(F.instance_norm(convolution(features), eps=INSTANCE_NORM_EPS))
            if index < len(self.scales):
                scale = self.scales[index]
                features = resize(features, (grid[0] * scale, grid[1] * scale))
        closed: Tensor = self.last(features)
        return closed


def cosine_logits(
    features: Float[Tensor, "batch width height width2"],
    words: Float[Tensor, "batch names width"],
    *,
    temperature: float,
) -> Float[Tensor, "batch names height width2"]:
    """Cosine between every pixel's feature and every word, divided by the temperature: within +-1 / temperature."""
    pixels, words = F.normalize(features, dim=1), F.normalize(words, dim=-1)
    return torch.einsum("bchw,bkc->bkhw", pixels, words) / temperature
