"""Files that are no checkpoint, or another encoder's: refused with the names, never run, never bent into shape."""

import argparse
import pickle
import re
import zipfile

import numpy as np
import pytest
import timm
import torch

from fusionerlib.encoders import published, timm_models
from fusionerlib.encoders.registry import get_spec, load_visual
from fusionerlib.errors import FusionerError
from tests.encoders.vision_models import images, load, saved, sine_cosine, small, vit_state


class Sneaky:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("write", [torch.save, lambda held, file: file.write_bytes(pickle.dumps(held, protocol=2))])
def test_code_in_a_checkpoint_is_never_run(write, tmp_path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "w.pth"
    sneaky = Sneaky(str(mark))
    write({"state_dict": vit_state(width=8, depth=1, patch=2, grid=2), "optimizer": sneaky}, file)
    with pytest.raises(FusionerError, match=r"w\.pth can't be read as plain tensors .* \.safetensors"):
        published.read(file)
    assert not mark.exists()
    function, arguments = sneaky.__reduce__()
    function(*arguments).close()
    assert mark.exists()  # as it would have been


@pytest.mark.filterwarnings("ignore:.*TorchScript|.*torch.jit")
def test_torchscript_and_damaged_files_are_refused(tmp_path) -> None:
    script, broken, cut = tmp_path / "script.pt", tmp_path / "broken.pth", tmp_path / "cut.safetensors"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(script))
    torch.save({"a": torch.ones(400)}, broken)
    broken.write_bytes(broken.read_bytes()[:700])
    saved({"a": torch.ones(400)}, cut)
    cut.write_bytes(cut.read_bytes()[:700])
    for file in (script, broken, cut):
        with pytest.raises(FusionerError, match=file.name):
            published.read(file)
    with pytest.raises(FusionerError, match="hold no tensors by name"):
        published.read(saved([torch.ones(2)], tmp_path / "list.pth"))


def test_wrappers_and_company_of_the_tensors_are_left_out(tmp_path) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    for name, held in {
        "plain": state,
        "wrapped": {"epoch": 3, "state_dict": state},
        "model": {"model": {**state, "step": 7}, "optimizer": {"lr": 1.0}},
    }.items():
        found = published.read(saved(held, tmp_path / f"{name}.pth"))
        assert found.keys() == state.keys() and torch.equal(found["a"], state["a"])


def test_the_error_names_what_does_not_fit(tmp_path) -> None:
    spec = small("dino-vits16", depth=2)
    state = vit_state(width=384, depth=3, patch=16, grid=14)
    extra = saved(state, tmp_path / "extra.pth")
    with pytest.raises(
        FusionerError,
        match=r"extra\.pth .* 'dino-vits16': missing tensors: none; unexpected tensors: blocks\.2\..* 8 more",
    ):
        load(spec, extra)
    state = vit_state(width=384, depth=2, patch=16, grid=14)
    state["head.weight"] = state.pop("norm.bias")
    swapped = saved(state, tmp_path / "swapped.pth")
    with pytest.raises(
        FusionerError, match=r"missing tensors: norm\.bias; unexpected tensors: head\.weight; pass the file"
    ):
        load(spec, swapped)
    with pytest.raises(FusionerError, match=r"missing tensors: norm\.bias; unexpected tensors: none"):
        load(small("mocov3-vits16", depth=2), swapped)


@pytest.mark.parametrize(("patch", "grid"), [(8, 28), (16, 24)])
def test_another_patch_or_size_is_not_resized_in_silence(patch, grid, tmp_path) -> None:
    """timm's own conversion, which drops old heads, would also take both and make tokens that nobody published."""
    state = {**vit_state(width=384, depth=1, patch=patch, grid=grid), "pre_logits.fc.bias": torch.zeros(2)}
    network = timm.create_model("vit_small_patch16_224.dino", depth=1)
    network.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(state), network), strict=True)
    with pytest.raises(FusionerError, match=r"(patch_embed\.proj\.weight|pos_embed) is \(.*, expected \("):
        load(small("dino-vits16", depth=1), saved(state, tmp_path / "w.pth"))


def test_a_missing_file_is_named_with_its_size(tmp_path) -> None:
    with pytest.raises(FusionerError, match=r"'dino-vitb8' needs dino_vitbase8_pretrain\.pth \(343 MB\)"):
        load_visual("dino-vitb8", weights=str(tmp_path))


def test_timms_and_the_authors_layout_of_dinov2_are_one_encoder(tmp_path) -> None:
    spec = small("dinov2-vits14-reg4", embed_dim=48, depth=1, num_heads=3, img_size=70)
    network = timm.create_model(spec.options["model"], **spec.options["arguments"])
    ours = network.state_dict()
    theirs = dict(ours)
    theirs["register_tokens"] = theirs.pop("reg_token")
    position = torch.randn(1, 1, 48)
    theirs["cls_token"] = ours["cls_token"] - position
    theirs["pos_embed"] = torch.cat([position, ours["pos_embed"]], 1)
    theirs["mask_token"] = torch.zeros(1, 48)
    pixels = torch.randint(0, 256, (1, 3, 56, 84), dtype=torch.uint8)
    one = load(spec, saved(ours, tmp_path / "model.safetensors"))
    other = load(spec, saved(theirs, tmp_path / "dinov2.pth"))
    torch.testing.assert_close(one(pixels).main.tokens, other(pixels).main.tokens, atol=1e-5, rtol=1e-4)
    assert "mask_token" in theirs and one.fingerprint != other.fingerprint


def test_a_row_for_any_name_knows_where_its_file_is() -> None:
    spec = get_spec("visual", "timm:vit_tiny_patch16_224.augreg_in21k")
    assert spec == timm_models.make_spec("vit_tiny_patch16_224.augreg_in21k") and spec.width == 0
    (file,) = spec.files
    assert (file.repo, file.file) == ("timm/vit_tiny_patch16_224.augreg_in21k", "model.safetensors")


def with_prefix(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.ones(4, 384), "head.last_layer.weight_v": torch.ones(5, 4)}
"""Part of DINO's projection head, beside the backbone in its training's files."""


@pytest.mark.parametrize("kind", ["full", "teacher", "module", "model", "lightning", "detector"])
def test_dino_as_people_have_it(kind, tmp_path) -> None:
    """The training's own file (student and teacher, options, optimiser), and prefixes that wrappers leave."""
    state = vit_state(width=384, depth=2, patch=16, grid=14, seed=1)
    other = vit_state(width=384, depth=2, patch=16, grid=14, seed=2)
    backbone = with_prefix("backbone.", state)
    student = with_prefix("module.", with_prefix("backbone.", other) | HEAD)
    options = argparse.Namespace(arch="vit_small", patch_size=16, lr=np.float64(5e-4))
    rate = {"param_groups": [{"lr": np.float64(1e-6), "params": [0]}], "state": {}}
    held = {
        "full": {"student": student, "teacher": backbone | HEAD, "optimizer": rate, "epoch": 100, "args": options},
        "teacher": {"teacher": backbone | HEAD},
        "module": {"state_dict": with_prefix("module.", state)},
        "model": {"model": with_prefix("model.", state)},
        "lightning": {"state_dict": with_prefix("model.backbone.", state), "epoch": 3},
        "detector": backbone | {"neck.weight": torch.ones(2)},
    }[kind]
    spec, pixels = small("dino-vits16", depth=2), images()
    found = load(spec, saved(held, tmp_path / "w.pth"))(pixels).main.tokens
    assert torch.equal(found, load(spec, saved(state, tmp_path / "plain.pth"))(pixels).main.tokens)


def test_mocos_linear_probe_holds_the_base_encoder(tmp_path) -> None:
    state = {**vit_state(width=384, depth=2, patch=16, grid=14), "pos_embed": sine_cosine(384, 14, 14)}
    head = {"head.weight": torch.ones(1000, 384), "head.bias": torch.ones(1000)}
    held = {"epoch": 90, "arch": "vit_small", "state_dict": with_prefix("module.", state | head), "best_acc1": 73.2}
    held["optimizer"] = {"state": {}, "param_groups": [{"lr": np.float64(3.0), "params": [0, 1]}]}
    probe = saved(held, tmp_path / "linear-vit-s-300ep.pth.tar")
    pretrained = {
        "state_dict": with_prefix("module.base_encoder.", state) | {"module.predictor.0.weight": torch.ones(2)}
    }
    spec, pixels = small("mocov3-vits16", depth=2), images()
    expected = load(spec, saved(pretrained, tmp_path / "vit-s-300ep.pth.tar"))(pixels).main.tokens
    assert torch.equal(load(spec, probe)(pixels).main.tokens, expected)
    with pytest.raises(FusionerError, match=r"linear-vit.*holds the base encoder alone: set visual_tokens to 'last'"):
        load(spec, probe, tokens="momentum")


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("kind", ["e", "f", "d", "q", "i", "?", "B"])
def test_numpys_scalars_beside_the_tensors(core, kind, tmp_path, monkeypatch) -> None:
    """numpy 1 and 2 pickle them under different names of one module."""
    file = tmp_path / "w.pt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "best": np.dtype(kind).type(1)}, file)
    other = tmp_path / f"{core}.pt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
                content = re.sub(rb"numpy\._?core\.multiarray", f"numpy.{core}.multiarray".encode(), content)
            new.writestr(name, content)
    assert torch.equal(published.read(other)["a"], torch.ones(2))
