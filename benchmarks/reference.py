"""The reference implementation: the paper's architecture in plain torch, one image at a time, without any cache.

In every step each image passes the visual tower, and its name, in 32 templates padded to the tokenizer's full length,
the text tower. Parameters have the same names as the library's, so that weights can be copied and gradients compared.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

OPEN_CLIP = {"clip-vit-b16": "ViT-B-16-quickgelu", "clip-vit-l14": "ViT-L-14-quickgelu"}
"""open_clip's names of the registry's encoders."""
GRIDS = (2, 4, 8)
"""Sizes of the decoder's feature map after its first three convolutions, in token grids."""


def random_clip(encoder: str, folder: Path) -> tuple[Any, str]:
    """CLIP with random weights: the model, and a file with it in the published format."""
    import open_clip

    torch.manual_seed(0)
    clip = open_clip.create_model(OPEN_CLIP[encoder], pretrained=None).eval().requires_grad_(False)
    file = folder / f"{encoder}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, file)
    return clip, str(file)


class Towers(nn.Module):
    """Frozen CLIP by open_clip's own API. mean, std: of pixels in 0-1."""

    def __init__(self, clip: Any, *, templates: tuple[str, ...], mean: Tensor, std: Tensor) -> None:
        super().__init__()
        from open_clip.tokenizer import SimpleTokenizer

        self.clip, self.templates, self.tokenizer = clip, templates, SimpleTokenizer()
        self.clip.visual.output_tokens = True
        self.mean, self.std = mean, std

    @torch.no_grad()
    def image(self, pixels: Tensor) -> Tensor:
        """Pixels (3, H, W; uint8) to unit-length patch tokens (N, D)."""
        normal = (pixels.to(self.mean.device).float() / 255 - self.mean) / self.std
        _, tokens = self.clip.visual(normal[None])
        return F.normalize((tokens @ self.clip.visual.proj)[0].float(), dim=-1)

    @torch.no_grad()
    def word(self, name: str) -> Tensor:
        """The unit-length token (D,) of one name."""
        ids = self.tokenizer([template.format(name) for template in self.templates])
        each = self.clip.encode_text(ids.to(self.mean.device), normalize=True).float()
        return F.normalize(each.mean(0), dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention of one image's tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        count, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(count, 3, self.heads, width // self.heads).permute(1, 2, 0, 3)
        attention = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.out((attention @ v).transpose(0, 1).reshape(count, width))


class Block(nn.Module):
    """x + Attn(LN x), x + MLP(LN x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """``depth`` blocks and a LayerNorm."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class Decoder(nn.Module):
    """Four times convolution, InstanceNorm, ReLU, with 2x upsampling after the first three; a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(len(GRIDS) + 1))
        self.last = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(1, D, h, w) to (1, D, 8h, 8w)."""
        rows, columns = features.shape[-2:]
        for index, convolution in enumerate(self.convolutions):
            features = F.relu(F.instance_norm(convolution(features)))
            if index < len(GRIDS):
                size = (rows * GRIDS[index], columns * GRIDS[index])
                features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        closed: Tensor = self.last(features)
        return closed


class Reference(nn.Module):
    """The paper's model for one image and its names."""

    def __init__(self, tokens: int, *, width: int = 512, depth: int = 12, heads: int = 8) -> None:
        super().__init__()
        self.visual_projection = nn.Sequential(nn.LayerNorm(tokens), nn.Linear(tokens, width), nn.LayerNorm(width))
        self.text_projection = nn.Sequential(nn.LayerNorm(tokens), nn.Linear(tokens, width))
        self.category = nn.Parameter(torch.randn(1, width))
        self.patch_matrix = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.word_matrix = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.transformer = Transformer(width, depth, heads)
        self.decoder = Decoder(width)

    def forward(self, patches: Tensor, words: Tensor, size: tuple[int, int]) -> Tensor:
        """Patch tokens (N, Dv) of a square grid and text tokens (K, Dt) to logits (K, H, W)."""
        side = round(len(patches) ** 0.5)
        tokens = torch.cat([self.visual_projection(patches), self.text_projection(words) + self.category])
        tokens = self.transformer(tokens)
        visual, text = tokens[: len(patches)] @ self.patch_matrix, tokens[len(patches) :] @ self.word_matrix
        features = self.decoder(visual.T.reshape(1, -1, side, side))
        features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        pixels, text = F.normalize(features[0], dim=0), F.normalize(text, dim=-1)
        return torch.einsum("kc,chw->khw", text, pixels) / 0.07

    def optimisers(self, lr: float) -> list[torch.optim.Optimizer]:
        """AdamW for the fusion, without weight decay on biases and norms, and Adam for the decoder."""
        fusion = {name: weight for name, weight in self.named_parameters() if not name.startswith("decoder.")}
        free = [weight for name, weight in fusion.items() if weight.ndim < 2 or name == "category"]
        decayed = [weight for name, weight in fusion.items() if not (weight.ndim < 2 or name == "category")]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=lr), torch.optim.Adam(self.decoder.parameters(), lr=lr)]


def image_loss(logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy of one image: logits (1, H, W), mask and valid (H, W)."""
    pixels = F.binary_cross_entropy_with_logits(logits[0], mask.float(), reduction="none")
    return (pixels * valid).sum() / valid.sum()
