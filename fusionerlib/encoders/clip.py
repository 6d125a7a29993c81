"""CLIP and its relatives through open_clip: a named encoder or ``open_clip:NAME/TAG``, one half at a time.

The two halves of a model share a space, so a cosine between words and patches of equal ``space`` is meaningful. Only
the half that is asked for is built and read: a text tower of 250,000 words costs an image encoder nothing. Models are
built from open_clip's configurations without a download and filled from a published file.

OpenAI's weights need QuickGELU and give wrong tokens without any error otherwise: the activation comes from the spec or
the tag, never from the model's name.
"""

import ast
import difflib
import importlib.util
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.encoders import published
from fusionerlib.encoders.base import EncoderSpec, LoadOptions, Role, TextTower, VisualTower, WeightFile, file_digest
from fusionerlib.encoders.clip_dense import dense, is_joint, token_kinds, trunk_positions
from fusionerlib.encoders.weights import cached, locate
from fusionerlib.errors import FusionerError

WEIGHTS = "open_clip_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a tokenizer of transformers (SigLIP), the last one optional; CLIP's own comes with open_clip."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of pixels 0-1, where a spec names no other."""
PATCHES = "/patches"
"""Suffix of the space of patch tokens that are not in their model's joint space."""
TEXT_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
"""How the text half's tensors begin in CLIP's own layout; later models put ``text.`` before them."""


class ClipSentences(nn.Module):
    """Sentences to open_clip's pooled text embeddings, in the space shared with the image tower."""

    def __init__(self, network: Any, *, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        # A causal network that pools at the sentence's end never attends to the padding behind it: leaving that out is
        # several times faster for names. Others (SigLIP) were trained to see their padding.
        at_end = network.pool_type == "argmax" and network.cls_emb is None
        self.register_buffer("mask", network.attn_mask if at_end else None, persistent=False)

    def forward(self, sentences: list[str]) -> Float[Tensor, "sentences dim"]:
        """Embeddings, not normalised. A sentence longer than the network's context is cut."""
        ids: Tensor = self.tokenizer(sentences)
        if isinstance(self.mask, Tensor):
            longest = int(ids.argmax(1).max()) + 1
            ids, self.network.attn_mask = ids[:, :longest], self.mask[:longest, :longest]
        embedded: Tensor = self.network(ids.to(self.network.positional_embedding.device))
        return embedded


def visual(spec: EncoderSpec, options: LoadOptions) -> VisualTower:
    """The image tower of ``spec``.

    Options of the spec: ``model``, a name in open_clip, or ``config``, a dictionary as in its ``model_configs``;
    ``quick_gelu``; ``mean`` and ``std`` of pixels 0-1. Raises FusionerError where the weights are not on this machine,
    or not those of the model.
    """
    file, config = _weights(spec, options), _config(spec)
    vision = config["vision_cfg"]
    network = dense(vision_tower(config, file), vision, options.tokens)
    space = spec.space.removesuffix(PATCHES) + ("" if is_joint(vision, options.tokens) else PATCHES)
    known = {"width": network.width, "stride": network.stride, "multiple": network.stride, "space": space}
    mean: Any = tuple(spec.options.get("mean", MEAN))
    std: Any = tuple(spec.options.get("std", STD))
    return VisualTower(
        network,
        spec=spec.model_copy(update=known),
        options=options,
        mean=mean,
        std=std,
        fingerprint=f"{_fingerprint(file, config)} {trunk_positions(vision) or ''}".strip(),
    )


def text(spec: EncoderSpec, options: LoadOptions) -> TextTower:
    """The text tower of ``spec``; options and errors as those of ``visual``."""
    file, config = _weights(spec, options), _config(spec)
    settings = config["text_cfg"]
    if "hf_model_name" in settings:
        raise FusionerError(
            f"text encoder {spec.name!r}: its text half is {settings['hf_model_name']} of transformers, which "
            "open_clip would download from the hub: choose another model"
        )
    tokenizer = _tokenizer(settings, file.parent if options.weights else _tokenizer_folder(spec))
    sentences = ClipSentences(text_tower(config, file), tokenizer=tokenizer)
    return TextTower(
        sentences, spec=spec, options=options, width=config["embed_dim"], fingerprint=_fingerprint(file, config)
    )


def vision_tower(config: dict[str, Any], file: Path) -> nn.Module:
    """The image half of the open_clip model ``config`` with the weights in ``file``, in float32.

    config: as in open_clip's ``model_configs``; ``quick_gelu`` decides the activation. Raises FusionerError where
    ``file`` does not hold exactly this half's tensors.
    """
    import timm
    from open_clip.model import _build_vision_tower

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    name = vision.get("timm_model_name")
    # On the meta device nothing is drawn that would be overwritten. A timm network also computes tables that no file
    # holds, so it is built on the CPU.
    with torch.device("cpu" if name else "meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
        if name and hasattr(tower.trunk, "dynamic_img_size"):  # an option of timm's that open_clip does not pass on
            arguments = {"num_classes": tower.trunk.num_classes, "global_pool": vision["timm_pool"]}
            tower.trunk = timm.create_model(name, dynamic_img_size=True, **arguments)
    return _filled(tower, file, half="image")


def text_tower(config: dict[str, Any], file: Path) -> nn.Module:
    """The text half of the open_clip model ``config`` with the weights in ``file``; errors as ``vision_tower``."""
    from open_clip.model import _build_text_tower

    with torch.device("meta"):
        tower = _build_text_tower(config["embed_dim"], config["text_cfg"], config.get("quick_gelu", False))
    tower.output_tokens = False
    if tower.attn_mask is not None:
        tower.attn_mask = tower.build_causal_mask()
    return _filled(tower, file, half="text")


def visual_spec(rest: str) -> EncoderSpec:
    """The spec of the image tower of ``open_clip:NAME/TAG``. Raises FusionerError for an unknown name or tag."""
    spec, config = _spec(rest, "visual")
    vision = config["vision_cfg"]
    known: dict[str, Any] = {"tokens": token_kinds(vision), "size": vision.get("image_size", 224)}
    if "timm_model_name" not in vision:
        stride = vision["patch_size"] or 32
        known |= {"width": config["embed_dim"], "stride": stride, "multiple": stride}
    if not is_joint(vision, "last"):
        known["space"] = spec.space + PATCHES
    return spec.model_copy(update=known)


def text_spec(rest: str) -> EncoderSpec:
    """The spec of the text tower of ``open_clip:NAME/TAG``; errors as those of ``visual_spec``."""
    spec, config = _spec(rest, "text")
    repo = config["text_cfg"].get("hf_tokenizer_name")
    files = [WeightFile(file=file, repo=repo, optional=file == TOKENIZER[-1]) for file in TOKENIZER] if repo else []
    return spec.model_copy(update={"width": config["embed_dim"], "files": (*spec.files, *files)})


def _spec(rest: str, role: Role) -> tuple[EncoderSpec, dict[str, Any]]:
    """The spec of one half as far as the tag tells, and the model's configuration."""
    model, _, tag = rest.rpartition("/")
    model = model.replace("/", "-")  # ViT-B/16 is open_clip's ViT-B-16
    tables = _tables()
    settings: dict[str, Any] = tables.get_pretrained_cfg(model, tag)
    if not settings:
        name = model or tag
        tags = tables.list_pretrained_tags_by_model(name)
        near = difflib.get_close_matches(name, {known for known, _ in tables.list_pretrained()}, n=3, cutoff=0.4)
        hint = f"tags of {name}: {', '.join(tags)}" if tags else f"nearest names: {', '.join(near) or 'none'}"
        raise FusionerError(
            f"unknown {role} encoder 'open_clip:{rest}': expected open_clip:NAME/TAG with a tag that open_clip "
            f"publishes, such as open_clip:ViT-B-16/openai ({hint})"
        )
    repo, _, file = settings["hf_hub"].rpartition("/")
    spec = EncoderSpec(
        name=f"open_clip:{rest}",
        role=role,
        family="open_clip",
        space=f"open_clip:{model}/{tag}",
        width=0,
        parameters=0,
        loader=f"{__name__}:{role}",
        pretraining=tag,
        licence="see the model's own card",
        tokens=("pooled",),
        files=(WeightFile(file=file or WEIGHTS, repo=repo),),
        options={
            "model": model,
            "quick_gelu": settings.get("quick_gelu", False),
            "mean": settings["mean"],
            "std": settings["std"],
        },
    )
    return spec, _config(spec)


def _config(spec: EncoderSpec) -> dict[str, Any]:
    """The model's configuration with the spec's activation. Raises FusionerError for a model that open_clip lacks."""
    config = spec.options.get("config")
    if config is None:
        file = _folder() / "model_configs" / f"{spec.options['model']}.json"
        if not file.is_file():
            raise FusionerError(
                f"encoder {spec.name!r}: open_clip has no model {spec.options['model']!r}: see its list"
            )
        config = json.loads(file.read_text(encoding="utf-8"))
    return {**config, "quick_gelu": spec.options.get("quick_gelu", config.get("quick_gelu", False))}


def _weights(spec: EncoderSpec, options: LoadOptions) -> Path:
    found = locate(spec, options.weights)  # before open_clip is imported, which takes seconds
    return found / spec.files[0].file if found.is_dir() else found


def _fingerprint(file: Path, config: dict[str, Any]) -> str:
    return f"{file_digest(file)} {json.dumps(config, sort_keys=True)}"


def _tokenizer_folder(spec: EncoderSpec) -> Path | None:
    """Where the files of a tokenizer of transformers lie, None for CLIP's own."""
    found = [cached(file) for file in spec.files if file.file == TOKENIZER[0]]
    return found[0].parent if found and found[0] else None


def _tokenizer(settings: dict[str, Any], folder: Path | None) -> Any:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    options = {"context_length": settings.get("context_length", 77), **(settings.get("tokenizer_kwargs") or {})}
    if not settings.get("hf_tokenizer_name"):
        return SimpleTokenizer(**options)
    if settings.get("tokenizer_mode"):
        options["tokenizer_mode"] = settings["tokenizer_mode"]
    return HFTokenizer(str(folder), local_files_only=True, **options)


def _folder() -> Path:
    """Where open_clip is installed; it is not imported."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations  # a dependency of ours
    return Path(spec.submodule_search_locations[0])


@cache
def _tables() -> Any:
    """What open_clip's ``pretrained.py`` defines, run without the package round it, whose import takes 5 s."""
    found: dict[str, Any] = {}
    for file in (_folder() / f"{module}.py" for module in ("constants", "version", "pretrained")):
        code = ast.parse(file.read_text(encoding="utf-8"))
        # What it imports from its neighbours is here already.
        code.body = [line for line in code.body if not (isinstance(line, ast.ImportFrom) and line.level)]
        exec(compile(code, str(file), "exec"), found)  # nosec B102: a file of the installed package open_clip
    return SimpleNamespace(**found)


def _filled(tower: nn.Module, file: Path, *, half: str) -> nn.Module:
    name_in: Callable[[str], str] = partial(_name_in_half, half=half)
    try:
        # assign: the tensors that were read become the tower's, so that no weight is in memory twice.
        tower.load_state_dict(published.read(file, rename=name_in), strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise FusionerError(
            f"the tensors in {file} are not those of this model's {half} half ({lines[min(1, len(lines) - 1)][:200]}): "
            "expected open_clip's published file of the same model and tag"
        ) from error
    return tower


def _name_in_half(name: str, *, half: str) -> str:
    """A tensor's name within the image or text half, "" where it belongs to the other half or to the loss."""
    name = name.removeprefix("module.")
    if half == "image":
        return name.removeprefix("visual.") if name.startswith("visual.") else ""
    return name.removeprefix("text.") if name.startswith(("text.", *TEXT_PARTS)) else ""
