"""Patch tokens of CLIP's ResNets and of timm networks inside open_clip, against timm and their own pools."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import CustomTextCLIP, get_model_config

from fusionerlib.encoders.base import LoadOptions
from fusionerlib.encoders.clip import visual
from fusionerlib.encoders.clip_dense import is_joint
from fusionerlib.encoders.registry import get_row
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
    row,
    true_image_half,
)


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
    known = get_row("visual", "clip-rn50")
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


@pytest.mark.parametrize("size", [(224, 224), (112, 168)])
def test_eva_tokens_are_normed_patches_through_the_projection(tmp_path, size) -> None:
    model = random_model(TINY_EVA)
    encoder = load(publish(model.state_dict(), tmp_path), TINY_EVA)
    tokens = encoder(photos(*size)).main
    trunk = static_trunk(model, size)
    with torch.no_grad():
        expected = trunk.head(trunk.forward_features(pixels(photos(*size)))[:, 1:])
    assert (encoder.stride, encoder.multiple, encoder.width) == (14, 14, 48)
    assert (tokens.space, tokens.stride, tokens.grid) == ("mine", 14, (size[0] // 14, size[1] // 14))
    assert_same(tokens.tokens, expected)


@pytest.mark.parametrize(
    ("config", "size"), [(TINY_PE, (192, 256)), (TINY_SIGLIP, (160, 160)), (TINY_SIGLIP, (96, 64))]
)
def test_attention_pooled_towers_have_patches_and_patches_alone(tmp_path, config, size) -> None:
    model = random_model(config)
    published = publish(model.state_dict(), tmp_path)
    plain = load(published, config)
    alone = load(published, config, tokens="value")
    trunk, images = static_trunk(model, size), photos(*size)
    with torch.no_grad():
        patches = trunk.forward_features(pixels(images))[:, trunk.num_prefix_tokens :]
        pool = trunk.attn_pool  # over one patch the softmax is 1, and only its value is left
        x = pool.proj(F.linear(patches, pool.kv.weight, pool.kv.bias).chunk(2, dim=-1)[1])
        joint = trunk.head(x + pool.mlp(pool.norm(x)))
    assert_same(plain(images).main.tokens, patches)
    assert_same(alone(images).main.tokens, joint)
    assert (plain.space, alone.space) == ("mine/patches", "mine")
    listed = row("visual", tokens=("last", "value"), config=config).model_copy(update={"space": "mine/patches"})
    for way, space in (("last", "mine/patches"), ("value", "mine")):
        assert visual(listed, LoadOptions(weights=str(published), tokens=way)).space == space
    assert (plain.width, alone.width) == (patches.shape[-1], joint.shape[-1])


def test_other_pools_are_in_no_joint_space() -> None:
    assert not is_joint(get_model_config("convnext_base")["vision_cfg"], "last")
    assert is_joint(get_model_config("ViT-L-14")["vision_cfg"], "last")
