"""Vision-only towers through timm: DINO, MoCo v3, ImageNet's ResNet-101, DINOv2, DINOv3 and what timm adds.

Options of a row: ``model``, timm's name with its tag; ``arguments`` of timm's constructor where they differ from the
name's; ``positions``, a name of ``positions.WAYS``; ``rotary``, ``counted`` where rotary positions count patches at
any size; ``layout`` of the published file (``mocov3``, ``dinov2``, timm's if it is left out); ``mean`` and ``std`` of
pixels 0-1.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fusionerlib.encoders import published
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, VisualTower, WeightFile, digest, file_digest
from fusionerlib.encoders.positions import PositionedPatches
from fusionerlib.encoders.weights import locate
from fusionerlib.errors import FusionerError

BRANCHES = {"last": "base_encoder", "momentum": "momentum_encoder"}
"""Which encoder of MoCo v3's pair the ``tokens`` of its rows come from."""


def row(name: str) -> EncoderSpec:
    """The row of ``timm:NAME``, NAME with its tag as on the hub (``vit_small_patch16_224.augreg_in1k``).

    Its positional embeddings are resized timm's way: take the family's own row where there is one.
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


def load(row: EncoderSpec, how: LoadOptions) -> VisualTower:
    """The tower of ``row``. Its map ``last`` holds the patches after the last norm, or a CNN's last stage.

    Raises FusionerError where the file is not there, or is not this encoder's.
    """
    file = locate(row, how.weights)
    state = published.read(file)
    if row.options.get("layout") == "mocov3":
        state = published.mocov3(state, branch=BRANCHES[how.tokens])
    elif row.options.get("layout") == "dinov2":
        state = published.dinov2(state)
    network = build(row)
    published.fill(network, state, what=f"weights {file} do not fit encoder {row.name!r}")
    network.reset_classifier(0)
    mean, std = (tuple(row.options.get(name, network.pretrained_cfg[name])) for name in ("mean", "std"))
    last = _last_stage(network)
    return VisualTower(
        maps_of(network, row.options),
        row=row.model_copy(
            update={"width": last["num_chs"], "stride": last["reduction"], "multiple": last["reduction"]}
        ),
        how=how,
        mean=mean,
        std=std,
        # The same tensors under other arguments (heads, positions) are another encoder.
        fingerprint=digest(f"{file_digest(file)} {row.options}"),
    )


def build(row: EncoderSpec) -> Any:
    """timm's network of ``row`` with its head, without weights: its tensors are memory as it comes.

    Raises FusionerError where this timm has no such model.
    """
    import timm

    name, arguments = row.options["model"], row.options.get("arguments", {})
    create = partial(timm.create_model, name, pretrained=False, **arguments)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise FusionerError(
            f"timm {timm.__version__} has no model {name!r}: {hint}see timm.list_pretrained(), or update timm"
        )
    try:
        with _Unfilled():
            try:
                return create(dynamic_img_size=True)
            except TypeError:  # families that take any size by themselves, or only one, have no such argument
                return create()
    except RuntimeError as error:
        raise FusionerError(f"timm {timm.__version__} can't build {name!r}: {error}") from error


def maps_of(network: Any, options: Mapping[str, Any]) -> nn.Module:
    """``network`` as a module from normalised images to the named map ``last``."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if type(network) not in (VisionTransformer, Eva):
        return FeatureMap(network)
    if network.pos_embed is not None:
        _give_positions(network, options.get("positions", "antialiased_bicubic"))
    if options.get("rotary") == "counted":
        network.rope.ref_feat_shape = None  # timm would squeeze or stretch every grid to the pretraining's
    return PatchMap(network, stride=_last_stage(network)["reduction"])


def _last_stage(network: Any) -> Mapping[str, Any]:
    stages: list[Mapping[str, Any]] = list(network.feature_info)
    return stages[-1]


class PatchMap(nn.Module):
    """The patch tokens of timm's plain vision transformers after the last norm, [CLS] and registers dropped.

    Where timm puts the last norm behind the pooling (``fc_norm``), it is applied to each patch. stride: pixels a token.
    """

    def __init__(self, network: Any, *, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Map ``last``."""
        tokens = self.network.forward_features(pixels)[:, self.network.num_prefix_tokens :]
        rows = pixels.shape[-2] // self.stride
        return {"last": rearrange(self.network.fc_norm(tokens), "b (rows columns) c -> b c rows columns", rows=rows)}


class FeatureMap(nn.Module):
    """The last stage of any other network of timm's, by the one call that they share."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Map ``last``. Raises FusionerError where the network takes no such size, or gives no map."""
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


def _give_positions(network: Any, way: str) -> None:
    """Move the positional embeddings of [CLS] and registers into these tokens, those of the patches to the patches."""
    prefix = 0 if network.no_embed_class else network.num_prefix_tokens
    table = network.pos_embed.detach()
    with torch.no_grad():
        tokens = [token for token in (network.cls_token, network.reg_token) if token is not None and prefix]
        for token, added in zip(tokens, table[:, :prefix].split([t.shape[1] for t in tokens], dim=1), strict=True):
            token += added
    network.pos_embed = None
    network.patch_embed = PositionedPatches(network.patch_embed, table=table[:, prefix:], way=way)


class _Unfilled(TorchFunctionMode):
    """Leaves out the random numbers of a fresh network, which its checkpoint would overwrite.

    They take most of the time of a load, and would move the seed of whoever loads an encoder.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "").endswith(("uniform_", "normal_", "erfinv_")):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
