"""Checkpoints stored in half precision: every family loads them, and gives what their float32 copy gives.

The reference is the same numbers in a float32 file. Both towers run in float32, so the tokens are equal to the digit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib.encoders.base import LoadOptions
from fusionerlib.encoders.clip import text
from fusionerlib.encoders.registry import load_text
from tests.encoders import open_clip_models, vision_models
from tests.encoders.open_clip_models import TINY_EVA, TINY_PE, TINY_RESNET, TINY_SIGLIP, TINY_VIT, publish, random_model
from tests.encoders.text_models import publish_bert, publish_roberta
from tests.encoders.vision_models import images, saved, shaken, sine_cosine, small, vit_state

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state in half precision, and the very same numbers in float32."""
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    return half, {name: value.float() if value.is_floating_point() else value for name, value in half.items()}


@HALVES
@pytest.mark.parametrize(
    ("config", "size"),
    [
        (TINY_VIT, (96, 64)),
        (TINY_RESNET, (64, 96)),
        (TINY_EVA, (112, 168)),
        (TINY_PE, (192, 256)),
        (TINY_SIGLIP, (96, 64)),
    ],
    ids=["ViT", "ResNet", "EVA-02", "PE", "SigLIP"],
)
def test_image_towers_of_open_clip(config, size, dtype, tmp_path) -> None:
    half, same = rounded(random_model(config).state_dict(), dtype)
    photos = open_clip_models.photos(*size)
    kinds = ("last", "value") if config in (TINY_PE, TINY_SIGLIP) else ("last",)
    folders = publish(half, tmp_path / "half"), publish(same, tmp_path / "same")
    for kind in kinds:
        found, expected = (open_clip_models.load(folder, config, tokens=kind) for folder in folders)
        assert {tensor.dtype for tensor in found.parameters()} == {torch.float32}
        assert torch.equal(found(photos).main.tokens, expected(photos).main.tokens)


@HALVES
def test_text_towers_of_open_clip(dtype, tmp_path) -> None:
    half, same = rounded(random_model(TINY_VIT).state_dict(), dtype)
    spec = open_clip_models.spec("text", tokens=("pooled",), config=TINY_VIT, quick_gelu=True)
    found, expected = (
        text(spec, LoadOptions(weights=str(publish(state, tmp_path / name)), tokens="pooled"))
        for name, state in (("half", half), ("same", same))
    )
    assert torch.equal(found(["cat", "traffic light"], ["a {}."]), expected(["cat", "traffic light"], ["a {}."]))


def dinov2() -> dict[str, Tensor]:
    """The authors' layout, where loading adds two tensors: in half precision the sum would be another number."""
    spec = small("dinov2-vits14-reg4", embed_dim=48, depth=1, num_heads=3, img_size=70)
    state = dict(shaken(timm.create_model(spec.options["model"], **spec.options["arguments"])).state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.randn(1, 1, 48), state["pos_embed"]], 1)
    return state | {"mask_token": torch.zeros(1, 48)}


def moco() -> dict[str, Tensor]:
    own = {**vit_state(width=384, depth=1, patch=16, grid=14), "pos_embed": sine_cosine(384, 14, 14)}
    return {f"module.base_encoder.{name}": value for name, value in own.items()}


def timms(name: str, **arguments) -> Callable[[], dict[str, Tensor]]:
    return lambda: dict(shaken(timm.create_model(name, **arguments)).state_dict())


def radio() -> dict[str, Tensor]:
    spec = small("c-radiov3-vitb16", embed_dim=48, depth=1, num_heads=3, img_size=192)
    return dict(shaken(timm.create_model(spec.options["model"], **spec.options["arguments"])).state_dict())


TINY = {"embed_dim": 48, "depth": 1, "num_heads": 3}


@HALVES
@pytest.mark.parametrize(
    ("name", "arguments", "make"),
    [
        ("dino-vits16", {"depth": 1}, lambda: vit_state(width=384, depth=1, patch=16, grid=14)),
        ("mocov3-vits16", {"depth": 1}, moco),
        ("dinov2-vits14-reg4", {**TINY, "img_size": 70}, dinov2),
        ("dinov3-vitb16", TINY, timms("vit_base_patch16_dinov3.lvd1689m", **TINY)),
        ("c-radiov3-vitb16", {**TINY, "img_size": 192}, radio),
        (
            "pe-spatial-vitb16",
            {**TINY, "img_size": 64},
            timms("vit_pe_spatial_base_patch16_512.fb", **TINY, img_size=64),
        ),
        ("eva02-vitb14", {**TINY, "img_size": 70}, timms("eva02_base_patch14_224.mim_in22k", **TINY, img_size=70)),
        ("imagenet-resnet101", {"layers": (1, 1, 1, 1)}, timms("resnet101.tv_in1k", layers=(1, 1, 1, 1))),
    ],
)
def test_vision_only_towers(name, arguments, make, dtype, tmp_path) -> None:
    half, same = rounded(make(), dtype)
    spec = small(name, **arguments)
    pixels = images((1, 3, 3 * spec.stride, 5 * spec.stride))
    found, expected = (
        vision_models.load(spec, saved(state, tmp_path / f"{kind}.pth"))
        for kind, state in (("half", half), ("same", same))
    )
    assert torch.equal(found(pixels).main.tokens, expected(pixels).main.tokens)
    assert {tensor.dtype for tensor in found.parameters()} == {torch.float32}


@HALVES
@pytest.mark.parametrize("fill", [publish_bert, publish_roberta], ids=["BERT", "RoBERTa"])
def test_language_models(fill, dtype, tmp_path) -> None:
    encoders: list[Path] = []
    for kind in range(2):
        folder = tmp_path / str(kind)
        folder.mkdir()
        fill(folder)
        state = rounded(load_file(folder / "model.safetensors"), dtype)[kind]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        encoders.append(folder)
    found, expected = (load_text(f"hf:{folder}") for folder in encoders)
    assert torch.equal(found(["cat", "blue dogs"], ["a {}"]), expected(["cat", "blue dogs"], ["a {}"]))
    assert {tensor.dtype for tensor in found.parameters()} == {torch.float32}
