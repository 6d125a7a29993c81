"""Vision-only towers through timm: DINO, MoCo v3, ImageNet's ResNet-101, DINOv2, DINOv3, C-RADIO, and any timm model.

Options of a spec: ``model``, timm's name with its tag; ``arguments`` for timm's constructor where they differ from that
name's; ``positions``, a method of ``positions.METHODS``; ``rotary``, see ``positions.use_positions``; ``layout`` of the
published file (``mocov3``, ``dinov2``, else timm's); ``mean`` and ``std`` of pixels 0-1.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fusionerlib.encoders import published
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, VisualTower, WeightFile, digest, file_digest
from fusionerlib.encoders.positions import TIMMS, is_plain, use_positions
from fusionerlib.encoders.weights import locate
from fusionerlib.errors import FusionerError

BRANCHES = {"last": "base_encoder", "momentum": "momentum_encoder"}
"""Which encoder of MoCo v3's pair each kind of token comes from."""


def make_spec(name: str) -> EncoderSpec:
    """The spec of ``timm:NAME``, NAME with its tag as on the hub (``vit_small_patch16_224.augreg_in1k``).

    Its positional embeddings are resized by timm's method; for a family that has its own, use the named encoder.
    """
    return EncoderSpec(
        name=f"timm:{name}",
        role="visual",
        family="timm",
        space=f"timm:{name}",
        width=0,
        parameters=0,
        loader="fusionerlib.encoders.timm_models:load",
        pretraining="see the model's own card",
        licence="see the model's own card",
        tokens=("last",),
        files=(WeightFile(file="model.safetensors", repo=f"timm/{name}"),),
        options={"model": name},
    )


def load(spec: EncoderSpec, options: LoadOptions) -> VisualTower:
    """The tower of ``spec``. Its one map ``last`` holds the patches after the last norm, or a CNN's last stage.

    Raises FusionerError where the file is missing or is not this encoder's.
    """
    file = locate(spec, options.weights)
    what = f"weights {file} do not fit encoder {spec.name!r}"
    state = published.backbone(published.read(file))
    if spec.options.get("layout") == "mocov3":
        state = published.mocov3(state, branch=BRANCHES[options.tokens], what=what)
    elif spec.options.get("layout") == "dinov2":
        state = published.dinov2(state)
    network = build(spec)
    published.fill(network, state, what=what)
    network.reset_classifier(0)
    mean, std = (tuple(spec.options.get(name, network.pretrained_cfg[name])) for name in ("mean", "std"))
    last = _last_stage(network)
    return VisualTower(
        feature_map(network, spec.options),
        spec=spec.model_copy(
            update={"width": last["num_chs"], "stride": last["reduction"], "multiple": last["reduction"]}
        ),
        options=options,
        mean=mean,
        std=std,
        # The same tensors under other arguments (heads, positions) are another encoder.
        fingerprint=digest(f"{file_digest(file)} {spec.options}"),
    )


def build(spec: EncoderSpec) -> Any:
    """timm's network of ``spec`` with its head and empty tensors. Raises FusionerError for an unknown model."""
    import timm

    name, arguments = spec.options["model"], spec.options.get("arguments", {})
    create = partial(timm.create_model, name, pretrained=False, **arguments)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise FusionerError(
            f"timm {timm.__version__} has no model {name!r}: {hint}see timm.list_pretrained(), or update timm"
        )
    try:
        with _NoInitialisation():
            try:
                return create(dynamic_img_size=True)
            except TypeError:  # families that take any size by themselves, or only one, have no such argument
                return create()
    except RuntimeError as error:
        raise FusionerError(f"timm {timm.__version__} can't build {name!r}: {error}") from error


def feature_map(network: Any, options: Mapping[str, Any]) -> nn.Module:
    """``network`` as a module from normalised images to the one map ``last``."""
    if not is_plain(network):
        return FeatureMap(network)
    use_positions(network, method=options.get("positions", TIMMS), rotary=options.get("rotary", ""))
    return PatchMap(network, stride=_last_stage(network)["reduction"])


def _last_stage(network: Any) -> Mapping[str, Any]:
    stages: list[Mapping[str, Any]] = list(network.feature_info)
    return stages[-1]


class PatchMap(nn.Module):
    """The patch tokens of timm's plain vision transformers after the last norm, without [CLS] and registers.

    Where timm puts the last norm behind the pooling (``fc_norm``), it is applied to each patch. stride: side of a patch
    in pixels.
    """

    def __init__(self, network: Any, *, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """The map ``last``: (batch, width, height / stride, width / stride)."""
        tokens = self.network.forward_features(pixels)[:, self.network.num_prefix_tokens :]
        rows = pixels.shape[-2] // self.stride
        return {"last": rearrange(self.network.fc_norm(tokens), "b (rows columns) c -> b c rows columns", rows=rows)}


class FeatureMap(nn.Module):
    """The last stage of any other timm network, through ``forward_intermediates``, which they share."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """The map ``last``. Raises FusionerError where the network takes no such size or gives no map."""
        try:
            maps = self.network.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)
        except AssertionError as error:
            height, width = self.network.pretrained_cfg["input_size"][1:]
            raise FusionerError(
                f"timm's {type(self.network).__name__} makes no map of an image of {pixels.shape[-1]}x"
                f"{pixels.shape[-2]} pixels ({error}): it was made for {width}x{height}; resize the image, or choose "
                "an encoder that takes any size"
            ) from error
        return {"last": maps[-1]}


class _NoInitialisation(TorchFunctionMode):
    """Skips the random initialisation of a new network, which its checkpoint overwrites.

    It takes most of the time of a load, and would advance the caller's random seed.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "").endswith(("uniform_", "normal_", "erfinv_")):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
