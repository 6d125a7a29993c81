"""Patch tokens of CLIP's ViTs against transformers, open_clip's own forward and a last block written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from open_clip import CLIP, get_model_config
from open_clip.model import resize_pos_embed
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from fusionerlib.encoders.base import LoadOptions
from fusionerlib.encoders.clip import visual
from fusionerlib.encoders.clip_dense import GRIDS, LAST_BLOCKS
from fusionerlib.encoders.registry import get_spec, load_visual
from fusionerlib.errors import FusionerError
from tests.encoders.open_clip_models import (
    TINY_VIT,
    assert_same,
    load,
    photos,
    pixels,
    publish,
    random_model,
    spec,
    true_image_half,
)


def in_transformers(state, *, hidden_act: str, heads: int) -> CLIPVisionModelWithProjection:
    """The image half of an open_clip state dict as transformers' own implementation."""
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    layers = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("visual.transformer."))
    grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=grid * patch,
        patch_size=patch,
        projection_dim=state["visual.proj"].shape[1],
        hidden_act=hidden_act,
    )
    with torch.device("meta"):  # drawing 90 million numbers to throw them away takes seconds
        theirs = CLIPVisionModelWithProjection(config)
    theirs.vision_model.embeddings.position_ids = torch.arange(grid**2 + 1)[None]
    renamed = {
        "embeddings.class_embedding": state["visual.class_embedding"],
        "embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for ours, other in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        renamed |= {f"{other}.{part}": state[f"visual.{ours}.{part}"] for part in ("weight", "bias")}
    for layer in range(layers):
        source, target = f"visual.transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        pairs = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
        pairs |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
        for part in ("weight", "bias"):
            renamed |= {f"{target}.{other}.{part}": state[f"{source}.{ours}.{part}"] for ours, other in pairs.items()}
            for name, piece in zip("qkv", state[f"{source}.attn.in_proj_{part}"].chunk(3), strict=True):
                renamed[f"{target}.self_attn.{name}_proj.{part}"] = piece
    renamed = {f"vision_model.{name}": tensor for name, tensor in renamed.items()}
    renamed["visual_projection.weight"] = state["visual.proj"].T
    theirs.load_state_dict(renamed, strict=True, assign=True)
    return theirs.eval()


@torch.no_grad()
def patches_of(theirs: CLIPVisionModelWithProjection, images: torch.Tensor) -> torch.Tensor:
    hidden = theirs.vision_model(pixels(images)).last_hidden_state[:, 1:]
    return theirs.visual_projection(theirs.vision_model.post_layernorm(hidden))


@pytest.fixture(scope="module")
def encoder(folder):
    """One encoder that meets every size, as a user's does."""
    return load(folder, TINY_VIT)


def test_tokens_are_transformers_and_the_activation_is_the_rows(tiny, folder) -> None:
    images, state = photos(64, 64), tiny.state_dict()
    quick = load(folder, TINY_VIT)(images).main
    plain = load(folder, TINY_VIT, quick_gelu=False)(images).main
    assert (quick.grid, quick.stride, quick.space, quick.tokens.shape) == ((4, 4), 16, "mine", (2, 16, 48))
    assert_same(quick.tokens, patches_of(in_transformers(state, hidden_act="quick_gelu", heads=4), images))
    assert_same(plain.tokens, patches_of(in_transformers(state, hidden_act="gelu", heads=4), images))
    assert (quick.tokens - plain.tokens).norm() > 1e-3 * quick.tokens.norm()


def test_two_activations_of_one_file_are_two_encoders(folder) -> None:
    assert load(folder, TINY_VIT).fingerprint != load(folder, TINY_VIT, quick_gelu=False).fingerprint


def test_pixels_are_normalised_as_the_row_says(tiny, folder) -> None:
    given = spec("visual", config=TINY_VIT, quick_gelu=True, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.5])
    half = copy.deepcopy(tiny.visual)
    half.output_tokens = True
    x = (photos(64, 64) / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.5])[
        :, None, None
    ]
    tokens = visual(given, LoadOptions(weights=str(folder), tokens="last"))(photos(64, 64)).main.tokens
    assert_same(tokens, half(x)[1] @ half.proj)


def test_true_vit_b32_from_its_row(tmp_path) -> None:
    state = true_image_half(get_model_config("ViT-B-32"))
    known = get_spec("visual", "clip-vit-b32")
    file = publish(state, tmp_path) / "open_clip_model.safetensors"
    encoder, images = load_visual(known.name, weights=str(file)), photos(224, 224)
    file.unlink()  # 350 MB
    theirs = in_transformers(state, hidden_act="quick_gelu", heads=12)
    assert_same(encoder(images).main.tokens, patches_of(theirs, images))
    assert (encoder.width, encoder.stride, encoder.multiple) == (known.width, known.stride, known.multiple)
    assert sum(tensor.numel() for tensor in encoder.parameters()) == known.parameters


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (48, 112), (112, 48)])
def test_any_grid_has_open_clips_interpolated_positions(tiny, encoder, size) -> None:
    vision = {**TINY_VIT["vision_cfg"], "image_size": size, "output_tokens": True}
    theirs = CLIP(**{**TINY_VIT, "vision_cfg": vision, "quick_gelu": True}).eval()
    state = dict(tiny.state_dict())
    resize_pos_embed(state, theirs)
    theirs.load_state_dict(state)
    images = photos(*size)
    with torch.no_grad():
        expected = theirs.visual(pixels(images))[1] @ theirs.visual.proj
    for _ in range(2):  # the second time from the cache
        tokens = encoder(images).main
        assert tokens.grid == (size[0] // 16, size[1] // 16)
        assert_same(tokens.tokens, expected)


def test_interpolated_positions_are_kept_for_few_grids_only(folder) -> None:
    network = load(folder, TINY_VIT).network
    before = network.positions(1, 2).clone()
    for width in range(2, GRIDS + 8):
        network.positions(1, width)
    assert len(network._positions) <= GRIDS
    assert torch.equal(network.positions(1, 2), before)


@torch.no_grad()
def by_hand(visual_half, images, kind: str) -> torch.Tensor:
    """Tokens with the last block written out, attention as whole matrices; all before it is open_clip's."""
    x = visual_half._embeds(pixels(images))
    *blocks, block = visual_half.transformer.resblocks
    for one in blocks:
        x = one(x)
    if kind == "value":  # open_clip's own block, each token allowed to see itself only
        x = block(x, attn_mask=torch.full((x.shape[1],) * 2, -torch.inf).fill_diagonal_(0.0))
    else:
        heads, (batch, count, width) = block.attn.num_heads, x.shape
        mixed = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = (part.reshape(batch, count, heads, -1).transpose(1, 2) for part in mixed.split(width, dim=-1))
        scale = (width // heads) ** -0.5
        weights = (q @ q.transpose(2, 3) * scale).softmax(-1)
        if kind == "self-self":
            weights = weights + (k @ k.transpose(2, 3) * scale).softmax(-1)
        out = block.attn.out_proj((weights @ v).transpose(1, 2).reshape(batch, count, width))
        x = out if kind == "clear" else x + out + block.mlp(block.ln_2(x + out))
    return visual_half.ln_post(x)[:, 1:] @ visual_half.proj


@pytest.mark.parametrize("kind", ["value", "self-self", "clear"])
def test_repairs_of_the_last_block(tiny, folder, kind) -> None:
    images = photos(64, 64)
    tokens = load(folder, TINY_VIT, tokens=kind)(images)
    assert (tokens.main_name, tokens.main.space) == (kind, "mine")
    assert_same(tokens.main.tokens, by_hand(tiny.visual, images, kind))


def test_every_way_has_its_own_tokens_and_fingerprint(folder) -> None:
    encoders = [load(folder, TINY_VIT, tokens=kind) for kind in LAST_BLOCKS]
    assert len({encoder.fingerprint for encoder in encoders}) == len(LAST_BLOCKS) == 4
    tokens = [encoder(photos(64, 64)).main.tokens for encoder in encoders]
    assert all((one - other).norm() > 0.01 for i, one in enumerate(tokens) for other in tokens[:i])


def test_a_tower_of_learned_queries_is_refused(tmp_path) -> None:
    config = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 4}}
    folder = publish(random_model(config).state_dict(), tmp_path)
    with pytest.raises(FusionerError, match=r"no patch tokens .* choose a CLIP without attentional_pool"):
        load(folder, config)


def test_frozen_and_in_half_precision_nearly_the_same(folder) -> None:
    encoder, half = load(folder, TINY_VIT), load(folder, TINY_VIT, precision="bfloat16")
    for one in (encoder, half):
        assert not any(tensor.requires_grad or tensor.grad is not None for tensor in one.parameters())
        assert not any(module.training for module in one.train().modules())
    exact, near = (one(photos(64, 96)).main.tokens for one in (encoder, half))
    assert near.dtype == torch.float32 and not exact.requires_grad
    assert F.cosine_similarity(exact, near, dim=-1).min() > 0.999
