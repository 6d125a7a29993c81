"""Rows of CLIP against open_clip's tables and models; what is said of names and files that are none of them."""

import json
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import open_clip
import pytest
import torch

from fusionerlib.encoders.clip import MEAN, STD
from fusionerlib.encoders.clip_dense import dense, token_kinds
from fusionerlib.encoders.registry import get_spec, list_encoders, load_visual
from fusionerlib.errors import FusionerError
from tests.encoders.open_clip_models import TINY_VIT, load

SPECS = [known for known in list_encoders() if known.loader.startswith("fusionerlib.encoders.clip:")]
TAGS = {"EVA02-B-16": "merged2b_s8b_b131k", "PE-Core-B-16": "meta"}


@pytest.mark.parametrize("known", SPECS, ids=lambda known: f"{known.role}-{known.name}")
def test_rows_are_what_open_clip_builds_and_publishes(known) -> None:
    config = open_clip.get_model_config(known.options["model"])
    build = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        model = build(**config)
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters() if not name.startswith("logit")}
    half = {name: size for name, size in sizes.items() if name.startswith("visual.") == (known.role == "visual")}
    assert known.parameters == sum(half.values())
    tag = TAGS.get(known.options["model"], "webli" if "SigLIP" in known.options["model"] else "openai")
    published = open_clip.get_pretrained_cfg(known.options["model"], tag)
    assert known.files[0].repo == published["hf_hub"].rstrip("/")
    assert known.options.get("quick_gelu", False) == published.get("quick_gelu", False)
    assert {file.repo for file in known.files[1:]} <= {config["text_cfg"].get("hf_tokenizer_name")}
    if known.files[0].bytes:
        assert known.files[0].bytes == bytes_of(model.state_dict())
    if known.role == "visual":
        assert tuple(known.options.get("mean", MEAN)) == tuple(published["mean"])
        assert tuple(known.options.get("std", STD)) == tuple(published["std"])
        assert known.size == config["vision_cfg"]["image_size"]
        assert known.space.removesuffix("/patches") == get_spec("text", known.name).space
        assert known.tokens == token_kinds(config["vision_cfg"])
        with torch.device("meta"), torch.no_grad():
            tokens = dense(model.visual.eval(), config["vision_cfg"], "last")(torch.zeros(1, 3, *[known.size] * 2))[
                "last"
            ]
        side = known.size // known.stride
        assert tokens.shape == (1, known.width, side, side) and known.multiple == known.stride
    else:
        assert known.width == config["embed_dim"]


def bytes_of(state) -> int:
    """The size of a safetensors file: eight bytes, a padded header of names, types and places, and the numbers."""
    header, start = {}, 0
    for name, tensor in sorted(state.items(), key=lambda item: (-item[1].element_size(), item[0])):
        end = start + tensor.numel() * tensor.element_size()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    return 8 + 8 * math.ceil(len(json.dumps(header, separators=(",", ":"))) / 8) + start


def test_a_tag_tells_the_activation_and_the_pixels() -> None:
    assert get_spec("visual", "open_clip:ViT-L-14/openai").options["quick_gelu"]
    laion = get_spec("visual", "open_clip:ViT-L/14/laion2b_s32b_b82k")
    assert not laion.options["quick_gelu"] and laion.options["mean"] == (0.5, 0.5, 0.5)
    assert laion.space == get_spec("text", "open_clip:ViT-L-14/laion2b_s32b_b82k").space
    assert (laion.width, laion.stride, laion.size, laion.files[0].repo) == (
        768,
        14,
        224,
        "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B-16", "tags of ViT-B-16: openai, "),
        ("ViT-B-16/opnai", "tags of ViT-B-16: openai, "),
        ("Vit-B-16/openai", "nearest names: ViT-B-16"),
    ],
)
def test_an_unknown_name_or_tag_gets_the_nearest(name, hint) -> None:
    for role in ("visual", "text"):
        with pytest.raises(FusionerError, match=f"unknown {role} encoder 'open_clip:{name}'.*{hint}"):
            get_spec(role, f"open_clip:{name}")


def test_weights_that_are_not_there_are_named_before_anything_heavy_is_imported() -> None:
    script = """
import sys
from fusionerlib.encoders.registry import load_text, load_visual
for load, name in (load_visual, "clip-vit-l14"), (load_text, "open_clip:ViT-B-16-SigLIP2/webli"):
    try:
        load(name)
    except ValueError as error:
        print(error)
print({"open_clip", "timm", "transformers"} & set(sys.modules))
"""
    environment = {**os.environ, "HF_HOME": "/nonexistent"}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    clip, siglip, imported = told.stdout.splitlines()
    assert "needs open_clip_model.safetensors (1.7 GB) of timm/vit_large_patch14_clip_224.openai" in clip
    assert "`fusioner fetch clip-vit-l14`" in clip and "visual_weights=PATH" in clip
    assert "open_clip_model.safetensors and 3 more files of timm/ViT-B-16-SigLIP2" in siglip
    assert imported == "set()"


def test_openais_torchscript_archive_is_refused_with_the_remedy(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have no such archives
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT-L-14.pt"))
    with pytest.raises(FusionerError, match=r"ViT-L-14\.pt .* TorchScript archive.* open_clip_model\.safetensors"):
        load_visual("clip-vit-l14", weights=str(tmp_path / "ViT-L-14.pt"))


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (self.file,)


def test_nothing_is_unpickled(tmp_path) -> None:
    torch.save({"visual.proj": Trap(str(tmp_path / "sprung"))}, tmp_path / "evil.pt")
    with pytest.raises(FusionerError, match=r"evil\.pt can't be read as plain tensors"):
        load(tmp_path / "evil.pt", TINY_VIT)
    assert not (tmp_path / "sprung").exists()


def test_a_plain_state_dict_gives_the_same_tokens(tiny, folder, tmp_path) -> None:
    state = {f"module.{name}": tensor for name, tensor in tiny.state_dict().items()}
    # open_clip's own checkpoint: its schedule leaves numpy's numbers in the optimiser.
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(5e-4), "params": [0]}]}
    torch.save({"epoch": 1, "name": "mine", "state_dict": state, "optimizer": optimizer}, tmp_path / "epoch_1.pt")
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    ours, published = load(tmp_path / "epoch_1.pt", TINY_VIT), load(folder, TINY_VIT)
    assert torch.equal(ours(images).main.tokens, published(images).main.tokens)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_size": 96}, "size mismatch for positional_embedding"),
        ({"layers": 4}, r"Missing key\(s\) .*resblocks\.3"),
        ({"layers": 2}, r"Unexpected key\(s\) .*resblocks\.2"),
    ],
)
def test_weights_of_another_model_are_refused(folder, change, reason) -> None:
    config = {**TINY_VIT, "vision_cfg": {**TINY_VIT["vision_cfg"], **change}}
    with pytest.raises(FusionerError, match=f"not those of this model's image half .*{reason}"):
        load(folder, config)
