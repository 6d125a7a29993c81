"""Models of open_clip with random weights, in its published file format; tiny ones and true ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib.encoders.base import EncoderSpec, LoadOptions, WeightFile
from fusionerlib.encoders.clip import visual
from fusionerlib.encoders.clip_dense import token_kinds

TEXT: dict[str, Any] = {"width": 64, "heads": 2, "layers": 2}
TINY_VIT: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": TEXT,
}
TINY_RESNET: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "text_cfg": TEXT,
}
TINY_EVA: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token"},
    "text_cfg": TEXT,
    "custom_text": True,
}
TINY_PE: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 384, "timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map"},
    "text_cfg": TEXT,
    "custom_text": True,
}
TINY_SIGLIP: dict[str, Any] = {
    "embed_dim": 48,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        **TEXT,
        "context_length": 16,
        "vocab_size": 32,
        "hf_tokenizer_name": "somebody/tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
for tiny in (TINY_EVA, TINY_PE):
    tiny["vision_cfg"]["timm_proj"] = None


def random_model(config: dict[str, Any], *, quick_gelu: bool = True) -> Any:
    """open_clip's own model with every tensor drawn, norms and statistics included, so that none is a no-op."""
    parts = {key: value for key, value in config.items() if key != "custom_text"}
    model = (CustomTextCLIP if config.get("custom_text") else CLIP)(**{**parts, "quick_gelu": quick_gelu})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim < 2 and tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval().requires_grad_(False)


def true_image_half(config: dict[str, Any]) -> dict[str, Tensor]:
    """The image half of a model of full size by its published names: 90 million numbers drawn in a blink."""
    with torch.device("meta"):
        shapes = CLIP(**config).state_dict()
    drawn = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1))
    tensors = {}
    for name, like in shapes.items():
        if name.startswith("visual."):
            noise = drawn.repeat(1 + like.numel() // len(drawn))[: like.numel()].reshape(like.shape)
            scale = like[0].numel() ** -0.5 if like.ndim > 1 else 0.1
            base = float(like.ndim == 1 and name.endswith(("weight", "running_var")))
            tensors[name] = (base + scale * noise).to(like.dtype).clone()
    return tensors


def publish(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """``folder`` with a model's ``open_clip_model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors")
    return folder


def spec(role: str, *, tokens: tuple[str, ...] = ("last",), files: tuple[str, ...] = (), **options: Any) -> EncoderSpec:
    """The spec of a user's own model."""
    return EncoderSpec(
        name="mine",
        role=role,
        family="CLIP",
        space="mine",
        width=0,
        parameters=0,
        loader=f"fusionerlib.encoders.clip:{role}",
        pretraining="none",
        licence="none",
        tokens=tokens,
        files=tuple(WeightFile(file=file) for file in ("open_clip_model.safetensors", *files)),
        options=options,
    )


def load(folder: Path, config: dict[str, Any], *, tokens: str = "last", quick_gelu: bool = True, **options: Any) -> Any:
    """The image tower of a published model, loaded as a user's own."""
    given = spec("visual", tokens=token_kinds(config["vision_cfg"]), config=config, quick_gelu=quick_gelu)
    return visual(given, LoadOptions(weights=str(folder), tokens=tokens, **options))


def photos(height: int, width: int) -> Tensor:
    """Two images of noise, 0-255."""
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def pixels(images: Tensor) -> Tensor:
    """Images normalised as CLIP's are."""
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))
    return (images / 255 - mean[:, None, None]) / std[:, None, None]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Equal unit-length tokens within 1e-4 of their size."""
    assert (ours - F.normalize(theirs, dim=-1)).norm() < 1e-4 * ours.norm()
