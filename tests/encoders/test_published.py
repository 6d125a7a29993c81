"""Files that are no checkpoint, or another encoder's: refused with the names, never run, never bent into shape."""

import pickle

import pytest
import timm
import torch

from fusionerlib.encoders import published, timm_models
from fusionerlib.encoders.registry import get_spec, load_visual
from fusionerlib.errors import FusionerError
from tests.encoders.vision_models import load, saved, small, vit_state


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
