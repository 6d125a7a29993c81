"""EfficientNet-Lite0 in plain torch, so that the packaged pair starts without timm, whose import takes seconds.

EfficientNet (Tan, Le, ICML 2019) without squeeze-and-excitation, with ReLU6 for SiLU, and a stem and a head of fixed
width. Trained with TensorFlow, so a convolution of stride s gives ceil(n / s) pixels from n, and where the padding for
that is odd, the extra pixel is at the bottom and at the right.
"""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM, HEAD, CLASSES = 32, 1280, 1000
"""Channels after the first convolution, channels before the classifier, and ImageNet's classes."""
STAGES = (
    # repeats, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""The seven stages (table 1 of the paper)."""
EPS = 1e-3
"""Of every batch norm, as in TensorFlow."""


class SamePad(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding."""

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Tensor:
        """ceil(height / stride) x ceil(width / stride) pixels."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides = pixels.shape[-1], pixels.shape[-2]
        missing = [max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in sides]
        pads = [pad for total in missing for pad in (total // 2, total - total // 2)]
        if any(pads):
            pixels = F.pad(pixels, pads)
        return F.conv2d(pixels, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def convolution(inner: int, outer: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size, or divides it by ``stride`` rounding up."""
    if stride == 1:
        return nn.Conv2d(inner, outer, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SamePad(inner, outer, kernel, stride, groups=groups, bias=False)


class Block(nn.Module):
    """Inverted residual (MobileNetV2): 1x1 expansion, depthwise convolution, 1x1 projection; added to its input where
    sizes allow. Without expansion the first convolution is left out."""

    def __init__(self, inner: int, outer: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [convolution(inner, wide), nn.BatchNorm2d(wide, EPS), nn.ReLU6(inplace=True)]
        layers += [convolution(wide, wide, kernel=kernel, stride=stride, groups=wide), nn.BatchNorm2d(wide, EPS)]
        layers += [nn.ReLU6(inplace=True), convolution(wide, outer), nn.BatchNorm2d(outer, EPS)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inner == outer

    def forward(self, pixels: Tensor) -> Tensor:
        """As the class says."""
        result: Tensor = self.layers(pixels)
        return result + pixels if self.residual else result


class Classifier(nn.Module):
    """The whole network: normalised pixels (batch, 3, height, width) to logits of ImageNet's 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, STEM, kernel=3, stride=2), nn.BatchNorm2d(STEM, EPS), nn.ReLU6(True))
        self.blocks, inner = nn.ModuleList(), STEM
        for repeats, kernel, stride, expansion, outer in STAGES:
            stage = nn.Sequential()
            for place in range(repeats):
                step = stride if place == 0 else 1
                stage.append(Block(inner, outer, kernel=kernel, stride=step, expansion=expansion))
                inner = outer
            self.blocks.append(stage)
        self.conv_head = convolution(inner, HEAD)
        self.bn2 = nn.Sequential(nn.BatchNorm2d(HEAD, EPS), nn.ReLU6(inplace=True))
        self.classifier = nn.Linear(HEAD, CLASSES)

    def stages(self, pixels: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """The outputs of stage 5 (112 channels, stride 16) and of stage 7 (320 channels, stride 32)."""
        features, found = self.stem(pixels), []
        for stage in self.blocks:
            features = stage(features)
            found.append(features)
        return found[4], found[6]

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        logits: Tensor = self.classifier(self.bn2(self.conv_head(self.stages(pixels)[1])).mean((2, 3)))
        return logits


def filled(tensors: Mapping[str, Tensor]) -> Classifier:
    """The network with ``tensors``, which are in the order of its own parameters and buffers, by whatever names.

    Raises RuntimeError where their number or a shape differs.
    """
    network = Classifier()
    names = list(network.state_dict())
    if len(names) != len(tensors):
        raise RuntimeError(f"{len(tensors)} tensors, expected {len(names)}")
    network.load_state_dict(dict(zip(names, tensors.values(), strict=True)))
    return network


def folded(network: Classifier) -> Classifier:
    """``network`` changed in place: its batch norms are folded into the convolutions before them.

    For inference: the same function up to rounding (1e-5 of a token), in two thirds of the time on a processor.
    """
    network.eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for place in range(1, len(module)):
                before, norm = module[place - 1], module[place]
                if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[place - 1], module[place] = fuse_conv_bn_eval(before, norm), nn.Identity()
    norm = network.bn2[0]
    if isinstance(norm, nn.BatchNorm2d):
        network.conv_head, network.bn2[0] = fuse_conv_bn_eval(network.conv_head, norm), nn.Identity()
    return network
