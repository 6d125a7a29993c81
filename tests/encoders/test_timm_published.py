"""The specs of vision-only towers against what timm knows, ``timm:NAME``, and the ways to run a tower."""

import pytest
import timm
import torch
import torch.nn.functional as F

from fusionerlib.encoders import timm_models
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.encoders.positions import METHODS
from fusionerlib.encoders.registry import get_spec, list_encoders, load_visual
from fusionerlib.errors import FusionerError
from tests.encoders.vision_models import assert_tokens, images, load, normal, saved, shaken, small

SPECS = [spec for spec in list_encoders("visual") if spec.loader.startswith("fusionerlib.encoders.timm_models:")]
TINY = "test_vit.r160_in1k"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_rows_are_what_timm_builds(spec) -> None:
    with torch.device("meta"):
        network = timm_models.build(spec)
        network.reset_classifier(0)
        assert spec.parameters == sum(parameter.numel() for parameter in network.parameters())
        run = timm_models.feature_map(network.eval(), spec.options)
        for height, width in ((spec.size, spec.size), (3 * spec.stride, 5 * spec.stride)):
            last = run(torch.empty(1, 3, height, width))["last"]
            assert last.shape == (1, spec.width, height // spec.stride, width // spec.stride)
    assert spec.multiple == spec.stride and spec.options.get("positions", "bicubic") in METHODS


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_rows_say_what_timm_says(spec) -> None:
    (file,) = spec.files
    published = timm.get_pretrained_cfg(spec.options["model"]).to_dict()
    assert file.url.endswith(file.file) or file.repo
    assert not file.bytes or file.bytes == pytest.approx(4 * spec.parameters, rel=0.06)
    if spec.family == "MoCo v3":  # timm has the architecture, not the weights
        assert spec.licence == "CC-BY-NC-4.0" and spec.size == 224
        return
    assert spec.size == published["input_size"][-1]
    assert (tuple(spec.options["mean"]), tuple(spec.options["std"])) == (published["mean"], published["std"])
    assert spec.licence.lower().replace(" ", "-") == published["license"]
    assert file.repo in (published["hf_hub_id"], "nvidia/C-RADIOv3-B") or file.url == published["url"]


def test_resnet_is_torchvisions_first_weights() -> None:
    from torchvision.models import ResNet101_Weights

    (file,) = get_spec("visual", "imagenet-resnet101").files
    weights = ResNet101_Weights.IMAGENET1K_V1
    assert file.url == weights.url and file.file.removesuffix(".pth").endswith(f"-{file.sha256}")
    assert file.bytes / 2**20 == pytest.approx(weights.meta["_file_size"], abs=1e-3)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """timm's smallest vision transformer."""
    return shaken(timm.create_model(TINY))


@pytest.fixture(scope="module")
def tiny(network, tmp_path_factory) -> str:
    """A folder with its ``model.safetensors``, as the hub has it."""
    folder = tmp_path_factory.mktemp("tiny")
    saved(network.state_dict(), folder / "model.safetensors")
    return str(folder)


def test_any_timm_name(network, tiny) -> None:
    grows = timm.create_model(TINY, dynamic_img_size=True).eval()
    grows.load_state_dict(network.state_dict())
    tower = load_visual(f"timm:{TINY}", weights=tiny)
    assert isinstance(tower, VisualEncoder) and (tower.width, tower.stride, tower.multiple) == (64, 16, 16)
    half = torch.full((3,), 0.5)
    for other, shape in ((network, (1, 3, 160, 160)), (grows, (2, 3, 96, 160))):
        pixels = images(shape)
        assert_tokens(tower, pixels, other.forward_features(normal(pixels, half, half))[:, 1:])


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_convnext.r160_in1k", "test_efficientnet.r160_in1k"])
def test_any_cnn_of_timm_gives_its_last_stage(name, tmp_path) -> None:
    cnn = shaken(timm.create_model(name))
    tower = load_visual(f"timm:{name}", weights=str(saved(cnn.state_dict(), tmp_path / "model.safetensors")))
    pixels = images((1, 3, 64, 96))
    last = []
    stage = cnn.norm_pre if "convnext" in name else cnn.blocks if "efficient" in name else cnn.layer4
    stage.register_forward_hook(lambda module, inputs, output: last.append(output))
    cnn(normal(pixels, *(torch.tensor(cnn.pretrained_cfg[key]) for key in ("mean", "std"))))
    assert_tokens(tower, pixels, last[0].flatten(2).transpose(1, 2))


def test_a_norm_behind_the_pooling_is_applied_to_each_patch(tmp_path) -> None:
    spec = small("eva02-vitb14", embed_dim=48, depth=2, num_heads=3, img_size=70)
    other = shaken(timm.create_model(spec.options["model"], **spec.options["arguments"]))
    tower = load(spec, saved(other.state_dict(), tmp_path / "model.safetensors"))
    mean, std = (torch.tensor(spec.options[key]) for key in ("mean", "std"))
    pixels = images((2, 3, 70, 70))
    tokens = other.forward_features(normal(pixels, mean, std))[:, 1:]
    assert_tokens(tower, pixels, F.layer_norm(tokens, (48,), other.fc_norm.weight, other.fc_norm.bias, 1e-6))


def test_frozen_and_loaded_without_a_trace(tiny) -> None:
    before = torch.get_rng_state()
    tower = load_visual(f"timm:{TINY}", weights=tiny).train()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert all(tensor.isfinite().all() for tensor in (*tower.parameters(), *tower.buffers()))
    assert not tower(images((1, 3, 32, 48))).main.tokens.requires_grad


@pytest.mark.parametrize(("precision", "cosine"), [("bfloat16", 0.999), ("float16", 0.99999)])
def test_half_precision_makes_the_same_tokens(precision, cosine, tiny) -> None:
    pixels = images((2, 3, 96, 160))
    exact = load_visual(f"timm:{TINY}", weights=tiny)
    half = load_visual(f"timm:{TINY}", weights=tiny, precision=precision)
    assert half.fingerprint != exact.fingerprint
    tokens = half(pixels).main.tokens
    assert tokens.dtype == torch.float32 and not torch.equal(tokens, exact(pixels).main.tokens)
    assert (tokens * exact(pixels).main.tokens).sum(-1).min() > cosine


def test_a_compiled_tower_makes_the_same_tokens(tmp_path) -> None:
    """Through the backend that runs a graph as it is: the compiler's own work takes minutes and is not ours to test."""
    state = timm.create_model(TINY, depth=1).state_dict()
    run = load(small(f"timm:{TINY}", depth=1), saved(state, tmp_path / "model.safetensors")).network
    pixels = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        compiled = torch.compile(run, backend="eager")(pixels)["last"]
        torch.testing.assert_close(compiled, run(pixels)["last"], atol=1e-5, rtol=1e-4)


def test_a_network_of_one_size_says_so() -> None:
    with torch.device("meta"):
        run = timm_models.feature_map(timm.create_model("mixer_s32_224"), {})
        assert run(torch.zeros(1, 3, 224, 224))["last"].shape == (1, 512, 7, 7)
    with pytest.raises(FusionerError, match=r"MlpMixer makes no map of an image of 320x256 .* made for 224x224"):
        run(torch.zeros(1, 3, 256, 320, device="meta"))


@pytest.mark.parametrize("name", ["test_vitt", "hf-hub:timm/test_vit.r160_in1k", "test_vit.no_such_tag"])
def test_names_that_timm_has_not(name, tiny) -> None:
    """None of them makes timm ask the hub."""
    with pytest.raises(FusionerError, match=name.split(".")[0]):
        load_visual(f"timm:{name}", weights=tiny)
