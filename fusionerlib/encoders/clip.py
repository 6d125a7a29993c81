"""CLIP and its relatives through open_clip: a row of the registry, or ``open_clip:NAME/TAG``, one half at a time.

The two halves of a model share a space, so words and patches of equal ``space`` may be compared. What makes OpenAI's
weights wrong without a word is their activation (QuickGELU): it comes with the row or the tag, never from the name.

One half of an open_clip model: built from its configuration without a download, filled from a published file.

The other half is neither built nor read, so a text tower of 250,000 words costs an image encoder nothing.
"""

import ast
import difflib
import importlib.util
import json
import pickle
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fusionerlib.encoders.base import EncoderSpec, LoadOptions, Role, TextTower, VisualTower, WeightFile, file_digest
from fusionerlib.encoders.clip_dense import dense, is_joint, ways
from fusionerlib.encoders.weights import cached, locate
from fusionerlib.errors import FusionerError

WEIGHTS = "open_clip_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a tokenizer of transformers (SigLIP), the last one optional; CLIP's own comes with open_clip."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of pixels 0-1, where a row names no other."""
PATCHES = "/patches"
"""Ends the space of patch tokens that have no place in their model's joint space."""


class ClipSentences(nn.Module):
    """Sentences to open_clip's pooled text embeddings, in the space shared with the image tower."""

    def __init__(self, network: Any, *, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        # A causal network that pools at a sentence's end never looks at the padding behind it: leaving that out is
        # several times faster for names. Others (SigLIP) were trained to see their padding.
        at_end = network.pool_type == "argmax" and network.cls_emb is None
        self.register_buffer("mask", network.attn_mask if at_end else None, persistent=False)

    def forward(self, sentences: list[str]) -> Float[Tensor, "sentences dim"]:
        """Embeddings, not normalised. What is longer than the network's context is cut."""
        ids: Tensor = self.tokenizer(sentences)
        if isinstance(self.mask, Tensor):
            longest = int(ids.argmax(1).max()) + 1
            ids, self.network.attn_mask = ids[:, :longest], self.mask[:longest, :longest]
        embedded: Tensor = self.network(ids.to(self.network.positional_embedding.device))
        return embedded


def visual(row: EncoderSpec, how: LoadOptions) -> VisualTower:
    """The image tower of ``row``.

    options: ``model``, a name in open_clip, or ``config``, a dictionary as in its ``model_configs``; ``quick_gelu``;
    ``mean`` and ``std`` of pixels 0-1. Raises FusionerError where the weights are not on this machine, or not those of
    the model.
    """
    file, config = _weights(row, how), _config(row)
    network = dense(vision_tower(config, file), config["vision_cfg"], how.tokens)
    space = row.space.removesuffix(PATCHES) + ("" if is_joint(config["vision_cfg"], how.tokens) else PATCHES)
    told = {"width": network.width, "stride": network.stride, "multiple": network.stride, "space": space}
    mean: Any = tuple(row.options.get("mean", MEAN))
    std: Any = tuple(row.options.get("std", STD))
    return VisualTower(
        network, row=row.model_copy(update=told), how=how, mean=mean, std=std, fingerprint=_fingerprint(file, config)
    )


def text(row: EncoderSpec, how: LoadOptions) -> TextTower:
    """The text tower of ``row``; options and errors as those of ``visual``."""
    file, config = _weights(row, how), _config(row)
    settings = config["text_cfg"]
    if "hf_model_name" in settings:
        raise FusionerError(
            f"text encoder {row.name!r}: its text half is {settings['hf_model_name']} of transformers, which open_clip "
            "would build from the hub: choose another model"
        )
    tokenizer = _tokenizer(settings, file.parent if how.weights else _tokenizer_folder(row))
    sentences = ClipSentences(text_tower(config, file), tokenizer=tokenizer)
    fingerprint = _fingerprint(file, config)
    return TextTower(sentences, row=row, how=how, width=config["embed_dim"], fingerprint=fingerprint)


def visual_row(rest: str) -> EncoderSpec:
    """The row of the image tower of ``open_clip:NAME/TAG``. Raises FusionerError for a name or tag it lacks."""
    row, config = _row(rest, "visual")
    vision = config["vision_cfg"]
    told: dict[str, Any] = {"tokens": ways(vision), "size": vision.get("image_size", 224)}
    if "timm_model_name" not in vision:
        stride = vision["patch_size"] or 32
        told |= {"width": config["embed_dim"], "stride": stride, "multiple": stride}
    if not is_joint(vision, "last"):
        told["space"] = row.space + PATCHES
    return row.model_copy(update=told)


def text_row(rest: str) -> EncoderSpec:
    """The row of the text tower of ``open_clip:NAME/TAG``; errors as those of ``visual_row``."""
    row, config = _row(rest, "text")
    repo = config["text_cfg"].get("hf_tokenizer_name")
    files = [WeightFile(file=file, repo=repo, optional=file == TOKENIZER[-1]) for file in TOKENIZER] if repo else []
    return row.model_copy(update={"width": config["embed_dim"], "files": (*row.files, *files)})


def _row(rest: str, role: Role) -> tuple[EncoderSpec, dict[str, Any]]:
    """A row of either half with what its tag tells, and the model's configuration."""
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
    row = EncoderSpec(
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
    return row, _config(row)


def _config(row: EncoderSpec) -> dict[str, Any]:
    """The model's configuration with the row's activation. Raises FusionerError for a name that open_clip lacks."""
    config = row.options.get("config")
    if config is None:
        file = _folder() / "model_configs" / f"{row.options['model']}.json"
        if not file.is_file():
            raise FusionerError(f"encoder {row.name!r}: open_clip has no model {row.options['model']!r}: see its list")
        config = json.loads(file.read_text(encoding="utf-8"))
    return {**config, "quick_gelu": row.options.get("quick_gelu", config.get("quick_gelu", False))}


def _weights(row: EncoderSpec, how: LoadOptions) -> Path:
    found = locate(row, how.weights)  # before open_clip, whose import takes seconds
    return found / row.files[0].file if found.is_dir() else found


def _fingerprint(file: Path, config: dict[str, Any]) -> str:
    return f"{file_digest(file)} {json.dumps(config, sort_keys=True)}"


def _tokenizer_folder(row: EncoderSpec) -> Path | None:
    """Where the files of a tokenizer of transformers lie, None for CLIP's own."""
    found = [cached(file) for file in row.files if file.file == TOKENIZER[0]]
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
        exec(compile(code, str(file), "exec"), found)
    return SimpleNamespace(**found)


PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
"""How the text half's tensors begin in CLIP's own layout; later models put ``text.`` before them."""


def vision_tower(config: dict[str, Any], file: Path) -> nn.Module:
    """The image half of the open_clip model ``config`` with the weights in ``file``.

    config: as in open_clip's ``model_configs``; ``quick_gelu`` decides the activation. Raises FusionerError where
    ``file`` does not hold exactly this half's tensors.
    """
    import timm
    from open_clip.model import _build_vision_tower

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    name = vision.get("timm_model_name")
    # Nothing is drawn that would be overwritten. A timm network also computes tables that no file holds.
    with torch.device("cpu" if name else "meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
        if name and hasattr(tower.trunk, "dynamic_img_size"):  # an option of timm's that open_clip does not hand on
            how = {"num_classes": tower.trunk.num_classes, "global_pool": vision["timm_pool"]}
            tower.trunk = timm.create_model(name, dynamic_img_size=True, **how)
    return _filled(tower, file, text=False)


def text_tower(config: dict[str, Any], file: Path) -> nn.Module:
    """The text half of the open_clip model ``config`` with the weights in ``file``; errors as ``vision_tower``."""
    from open_clip.model import _build_text_tower

    with torch.device("meta"):
        tower = _build_text_tower(config["embed_dim"], config["text_cfg"], config.get("quick_gelu", False))
    tower.output_tokens = False
    if tower.attn_mask is not None:
        tower.attn_mask = tower.build_causal_mask()
    return _filled(tower, file, text=True)


def _filled(tower: nn.Module, file: Path, *, text: bool) -> nn.Module:
    half = "text" if text else "image"
    try:
        # assign: the file's tensors become the tower's, so that no weight is in memory twice.
        tower.load_state_dict(_read(file, text=text), strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise FusionerError(
            f"the tensors in {file} are not those of this model's {half} half ({lines[min(1, len(lines) - 1)][:200]}): "
            "expected open_clip's published file of the same model and tag"
        ) from error
    return tower


def _read(file: Path, *, text: bool) -> dict[str, Tensor]:
    """The tensors of one half by their names within it, from safetensors or a plain state dict."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as stream:
                names = {name: inner for name in stream.keys() if (inner := _inner(name, text=text))}  # noqa: SIM118
                return {inner: stream.get_tensor(name) for name, inner in names.items()}
        with warnings.catch_warnings():  # torch says that it will run a TorchScript archive, and then refuses
            warnings.simplefilter("ignore")
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError) as error:
        raise FusionerError(
            f"weights {file} can't be read as plain tensors: OpenAI's original .pt is a TorchScript archive, which "
            "holds code; expected the hub's open_clip_model.safetensors of the same model (`fusioner fetch` gets it)"
        ) from error
    tensors = {name.removeprefix("module."): tensor for name, tensor in found.get("state_dict", found).items()}
    return {inner: tensor for name, tensor in tensors.items() if (inner := _inner(name, text=text))}


def _inner(name: str, *, text: bool) -> str:
    """A tensor's name within its half, "" where it belongs to the other one or to the loss."""
    if not text:
        return name.removeprefix("visual.") if name.startswith("visual.") else ""
    return name.removeprefix("text.") if name.startswith(("text.", *PARTS)) else ""
