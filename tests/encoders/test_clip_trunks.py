"""Patch tokens of CLIP's ResNets and of timm networks inside open_clip, against timm and their own pools."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import CustomTextCLIP, get_model_config
from torch import Tensor

from fusionerlib.encoders.base import LoadOptions
from fusionerlib.encoders.clip import visual
from fusionerlib.encoders.clip_dense import is_joint
from fusionerlib.encoders.registry import get_spec
from tests.encoders.open_clip_models import (
    TINY_EVA,
    TINY_PE,
    TINY_RESNET,
    TINY_SIGLIP,
    assert_same,
    load,
    photos,
    pixels,
    publish,
    random_model,
    spec,
    true_image_half,
)
from tests.encoders.vision_models import perception_rotation, resized, vit


def test_resnet_tokens_are_what_its_pool_makes_of_one_position(tmp_path) -> None:
    model = random_model(TINY_RESNET)
    encoder = load(publish(model.state_dict(), tmp_path), TINY_RESNET)
    images = photos(64, 96)
    maps = []
    handle = model.visual.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with pytest.raises(RuntimeError):  # open_clip's own forward has positions for one size only
        model.visual(pixels(images))
    handle.remove()
    pool = model.visual.attnpool
    pool.positional_embedding = torch.nn.Parameter(torch.zeros(2, pool.positional_embedding.shape[1]))
    positions = maps[0].permute(0, 2, 3, 1).reshape(-1, maps[0].shape[1], 1, 1)
    with torch.no_grad():
        expected = pool(positions).reshape(2, 6, 48)
    tokens = encoder(images).main
    assert (tokens.grid, tokens.stride, tokens.space) == ((2, 3), 32, "mine")
    assert_same(tokens.tokens, expected)


def test_true_rn50_from_its_row_has_timms_feature_map(tmp_path) -> None:
    import timm
    from timm.models.byobnet import checkpoint_filter_fn

    state, images = true_image_half(get_model_config("RN50")), photos(224, 224)
    known = get_spec("visual", "clip-rn50")
    encoder = visual(known, LoadOptions(weights=str(publish(state, tmp_path)), tokens="last"))
    (tmp_path / "open_clip_model.safetensors").unlink()  # 150 MB
    with torch.device("meta"):
        theirs = timm.create_model("resnet50_clip", num_classes=1024).eval()
    theirs.load_state_dict(checkpoint_filter_fn(state, theirs), assign=True)
    with torch.no_grad():
        x = theirs.forward_features(pixels(images)).flatten(2).transpose(1, 2)
        for name in ("v_proj", "c_proj"):
            x = x @ state[f"visual.attnpool.{name}.weight"].T + state[f"visual.attnpool.{name}.bias"]
    assert_same(encoder(images).main.tokens, x)
    assert (encoder.width, encoder.stride, encoder.multiple) == (known.width, known.stride, known.multiple)


def static_trunk(model: CustomTextCLIP, size: tuple[int, int]):
    """The timm network of open_clip's model, rebuilt by timm itself for one input size."""
    model.visual.trunk.set_input_size(size)
    return model.visual.trunk.eval()


def by_the_pool_alone(trunk, patches: Tensor) -> Tensor:
    """Joint embeddings of single patches: over one patch the pool's softmax is 1, and only its value is left."""
    pool = trunk.attn_pool
    x = pool.proj(F.linear(patches, pool.kv.weight, pool.kv.bias).chunk(2, dim=-1)[1])
    return trunk.head(x + pool.mlp(pool.norm(x)))


@pytest.mark.parametrize("size", [(224, 224), (112, 168), (280, 196)])
def test_eva_tokens_are_normed_patches_through_the_projection(tmp_path, size) -> None:
    """EVA's own code resizes positions by plain bicubic, and stretches the rotary ones to the pretraining's grid."""
    model = random_model(TINY_EVA)
    encoder = load(publish(model.state_dict(), tmp_path), TINY_EVA)
    tokens = encoder(photos(*size)).main
    table, grid = model.visual.trunk.pos_embed.clone(), (size[0] // 14, size[1] // 14)
    trunk = static_trunk(model, size)
    plain = resized(table, *grid, lambda map, new: F.interpolate(map, new, mode="bicubic", align_corners=False))
    antialiased = trunk.pos_embed.clone()
    with torch.no_grad():
        trunk.pos_embed.copy_(table if size == (224, 224) else plain)
        expected = trunk.head(trunk.forward_features(pixels(photos(*size)))[:, 1:])
    assert (encoder.stride, encoder.multiple, encoder.width) == (14, 14, 48)
    assert (tokens.space, tokens.stride, tokens.grid) == ("mine", 14, grid)
    assert_same(tokens.tokens, expected)
    if size == (112, 168):
        assert (antialiased - plain).norm() > 0.1 * plain.norm(), "timm's own method would not show"


@pytest.mark.parametrize("size", [(384, 384), (192, 256), (448, 320)])
def test_perception_encoder_in_open_clip_is_as_its_own_code(tmp_path, size) -> None:
    """Written out: bilinear positions and rotary ones counted from 1, at any size."""
    model = random_model(TINY_PE)
    published = publish(model.state_dict(), tmp_path)
    plain, alone = load(published, TINY_PE), load(published, TINY_PE, tokens="value")
    images, (rows, columns) = photos(*size), (size[0] // 16, size[1] // 16)
    trunk = model.visual.trunk.eval()
    state = trunk.state_dict()
    table = state["pos_embed"]
    if (rows, columns) != (24, 24):
        table = resized(table, rows, columns, lambda map, new: F.interpolate(map, new, mode="bilinear"))
    turned = perception_rotation(rows, columns)
    patches = vit(state, pixels(images), heads=3, eps=1e-5, positions=table, rotate=turned)
    assert_same(plain(images).main.tokens, patches)
    assert_same(alone(images).main.tokens, by_the_pool_alone(trunk, patches))
    assert (plain.space, alone.space, plain.width, alone.width) == ("mine/patches", "mine", 192, 48)


@pytest.mark.parametrize("size", [(160, 160), (96, 64)])
def test_attention_pooled_towers_have_patches_and_patches_alone(tmp_path, size) -> None:
    model = random_model(TINY_SIGLIP)
    published = publish(model.state_dict(), tmp_path)
    plain = load(published, TINY_SIGLIP)
    alone = load(published, TINY_SIGLIP, tokens="value")
    trunk, images = static_trunk(model, size), photos(*size)
    with torch.no_grad():
        patches = trunk.forward_features(pixels(images))[:, trunk.num_prefix_tokens :]
        joint = by_the_pool_alone(trunk, patches)
    assert_same(plain(images).main.tokens, patches)
    assert_same(alone(images).main.tokens, joint)
    assert (plain.space, alone.space) == ("mine/patches", "mine")
    listed = spec("visual", tokens=("last", "value"), config=TINY_SIGLIP).model_copy(update={"space": "mine/patches"})
    for kind, space in (("last", "mine/patches"), ("value", "mine")):
        assert visual(listed, LoadOptions(weights=str(published), tokens=kind)).space == space
    assert (plain.width, alone.width) == (patches.shape[-1], joint.shape[-1])


def test_other_pools_are_in_no_joint_space() -> None:
    assert not is_joint(get_model_config("convnext_base")["vision_cfg"], "last")
    assert is_joint(get_model_config("ViT-L-14")["vision_cfg"], "last")
