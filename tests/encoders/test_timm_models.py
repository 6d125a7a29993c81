"""Each vision-only family, loaded from a random checkpoint in its published layout, against another implementation."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionerlib.encoders.registry import get_spec, load_visual
from tests.encoders.vision_models import (
    WIDE,
    assert_tokens,
    from_transformers,
    images,
    load,
    normal,
    perception_rotation,
    resized,
    saved,
    shaken,
    sine_cosine,
    small,
    vit,
    vit_state,
)


def dino_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    scale = tuple((new + 0.1) / grid.shape[-1] for new in size)
    return F.interpolate(grid, mode="bicubic", scale_factor=scale)


@pytest.mark.parametrize("layout", ["pth", "safetensors"])
def test_dino(layout, tmp_path) -> None:
    state = vit_state(width=384, depth=3, patch=16, grid=14)
    tower = load(small("dino-vits16", depth=3), saved(state, tmp_path / f"w.{layout}"))
    for shape in ((1, 3, 224, 224), WIDE):
        pixels = images(shape)
        grid = (shape[2] // 16, shape[3] // 16)
        table = state["pos_embed"] if grid == (14, 14) else resized(state["pos_embed"], *grid, dino_grid)
        assert_tokens(tower, pixels, vit(state, normal(pixels), heads=6, positions=table))


@pytest.fixture(scope="module")
def moco(tmp_path_factory) -> tuple[dict[str, dict[str, Tensor]], Path]:
    """The two encoders of a random MoCo v3 ViT-S/16, and its published file: a whole training state."""
    encoders = {
        branch: {
            **vit_state(width=384, depth=3, patch=16, grid=14, seed=seed),
            "pos_embed": sine_cosine(384, 14, 14),
        }
        for seed, branch in enumerate(("base_encoder", "momentum_encoder"))
    }
    state = {f"module.{branch}.{name}": value for branch, own in encoders.items() for name, value in own.items()}
    for name in ("base_encoder.head.0.weight", "momentum_encoder.head.0.weight", "predictor.0.weight"):
        state[f"module.{name}"] = torch.randn(8, 384)
    moments = {0: {"step": 3, "exp_avg": torch.randn(4), "exp_avg_sq": torch.randn(4)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}]}
    whole = {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": optimizer, "scaler": {"scale": 2.0}}
    return encoders, saved(whole, tmp_path_factory.mktemp("moco") / "vit-s-300ep.pth.tar")


@pytest.mark.parametrize(("tokens", "branch"), [("last", "base_encoder"), ("momentum", "momentum_encoder")])
def test_mocov3_small_has_twelve_heads_and_computed_positions(tokens, branch, moco) -> None:
    encoders, file = moco
    tower = load(small("mocov3-vits16", depth=3), file.parent, tokens=tokens)
    for shape in ((1, 3, 224, 224), WIDE):
        pixels = images(shape)
        table = sine_cosine(384, shape[2] // 16, shape[3] // 16)
        expected = vit(encoders[branch], normal(pixels), heads=12, positions=table)
        assert_tokens(tower, pixels, expected)
    # What timm's own vit_small would make of the same file: nothing but the tokens tells.
    six = load(small("mocov3-vits16", depth=3, num_heads=6), file, tokens=tokens)
    assert (six(pixels).main.tokens - tower(pixels).main.tokens).abs().max() > 0.05
    assert six.fingerprint != tower.fingerprint


DINOV2 = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.": "",
    "encoder.layer.": "blocks.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2(registers, tmp_path) -> None:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 98, "patch_size": 14}
    if registers:
        other = shaken(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers)))
    else:
        other = shaken(Dinov2Model(Dinov2Config(**sizes)))
        # transformers leaves out the tenth of a patch that the published code adds.
        table = other.embeddings.position_embeddings
        other.embeddings.interpolate_pos_encoding = lambda _, height, width: (
            table if height == width == 98 else resized(table, height // 14, width // 14, dino_grid)
        )
    state = from_transformers(other.state_dict(), DINOV2)
    spec = small(
        "dinov2-vits14-reg4" if registers else "dinov2-vits14", embed_dim=48, depth=2, num_heads=3, img_size=98
    )
    tower = load(spec, saved(state, tmp_path / "w.pth"))
    for shape in ((1, 3, 98, 98), (2, 3, 70, 126), (1, 3, 154, 42)):
        pixels = images(shape)
        tokens = other(normal(pixels)).last_hidden_state[:, 1 + registers :]
        assert_tokens(tower, pixels, tokens)


def test_dinov3(tmp_path) -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    other = shaken(
        DINOv3ViTModel(
            DINOv3ViTConfig(
                hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
                num_register_tokens=4, query_bias=False, value_bias=False, layer_norm_eps=1e-5,
            )
        )
    )  # fmt: skip
    renamed = {
        "embeddings.mask_token": "", "embeddings.patch_embeddings": "patch_embed.proj", "embeddings.": "",
        "register_tokens": "reg_token", "model.layer.": "blocks.", "layer_scale1.lambda1": "gamma_1",
        "layer_scale2.lambda1": "gamma_2", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2",
    }  # fmt: skip
    state = from_transformers(other.state_dict(), renamed)
    state.pop("")
    spec = small("dinov3-vitb16", embed_dim=48, depth=2, num_heads=3)
    tower = load(spec, saved(state, tmp_path / "model.safetensors"))
    for shape in ((1, 3, 256, 256), WIDE):
        pixels = images(shape)
        assert_tokens(tower, pixels, other(normal(pixels)).last_hidden_state[:, 5:])


def test_c_radio_in_nvidias_layout(tmp_path) -> None:
    from transformers import RadioConfig, RadioModel

    other = shaken(
        RadioModel(
            RadioConfig(
                hidden_size=48, num_hidden_layers=2, num_attention_heads=3, max_img_size=192,
                num_cls_tokens=3, num_registers=5,
            )
        )
    )  # fmt: skip
    renamed = {
        "embeddings.patch_projection": "patch_generator.embedder", "embeddings.cls_register_token":
        "patch_generator.cls_token.token", "embeddings.position_embedding": "patch_generator.pos_embed",
        "encoder.layer.": "blocks.", "layer_scale1.lambda1": "ls1.grandma", "layer_scale2.lambda1": "ls2.grandma",
    }  # fmt: skip
    state = from_transformers({f"radio_model.model.{name}": one for name, one in other.state_dict().items()}, renamed)
    state["radio_model.input_conditioner.norm_mean"] = torch.zeros(3, 1, 1)

    def corners(dims: tuple[int, int], dtype: torch.dtype) -> Tensor:
        square = other.embeddings.position_embedding.transpose(1, 2).unflatten(2, (12, 12))
        square = F.interpolate(square, size=(max(dims),) * 2, mode="bilinear", align_corners=True)
        return square[..., : dims[0], : dims[1]].flatten(2).transpose(1, 2)

    # transformers has align_corners=False, as the later models; this one was published with align_corners=True.
    other.embeddings._interpolate_position_embedding = corners
    spec = small("c-radiov3-vitb16", embed_dim=48, depth=2, num_heads=3, img_size=192)
    tower = load(spec, saved(state, tmp_path / "model.safetensors"))
    for shape in ((1, 3, 192, 192), WIDE):
        pixels = images(shape)
        assert_tokens(tower, pixels, other(pixels / 255).features)


def test_perception_encoder_in_metas_layout(tmp_path) -> None:
    width, heads, rows, columns = 48, 3, 6, 10
    state = vit_state(width=width, depth=2, patch=16, grid=4)
    for name in ("norm.weight", "norm.bias", "patch_embed.proj.bias"):
        state.pop(name)
    state |= {"norm_pre.weight": 1 + torch.rand(width), "norm_pre.bias": torch.rand(width)}
    names = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "blocks.": "transformer.resblocks.", ".norm": ".ln_",
        "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    published = {"class_embedding": state["cls_token"][0, 0], "positional_embedding": state["pos_embed"][0]}
    for name, value in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        published[name] = value
    del published["cls_token"], published["pos_embed"]

    spec = small("pe-spatial-vitb16", embed_dim=width, depth=2, num_heads=heads, img_size=64)
    tower = load(spec, saved(published, tmp_path / "PE.pt"))
    table = resized(state["pos_embed"], rows, columns, lambda grid, size: F.interpolate(grid, size, mode="bilinear"))
    half = torch.full((3,), 0.5)
    pixels = images()
    expected = vit(
        state,
        normal(pixels, half, half),
        heads=heads,
        eps=1e-5,
        positions=table,
        rotate=perception_rotation(rows, columns),
    )
    assert_tokens(tower, pixels, expected)


def test_imagenet_resnet101(tmp_path) -> None:
    from torchvision.models import resnet101

    torch.manual_seed(0)
    other = resnet101()
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
    other.eval()
    tower = load_visual("imagenet-resnet101", weights=str(saved(other.state_dict(), tmp_path / "r.pth")))
    assert sum(parameter.numel() for parameter in tower.parameters()) == get_spec("visual", tower.name).parameters
    other.avgpool = other.fc = torch.nn.Identity()
    pixels = images((1, 3, 64, 96))
    assert_tokens(tower, pixels, other(normal(pixels)).unflatten(1, (2048, -1)).transpose(1, 2))
