"""Text encoders of transformers: BERT, RoBERTa, MiniLM and any sentence-transformers folder (``hf:NAME``).

A sentence's token is the attention-masked mean of the last layer (``mean``) or its first token (``cls``); the paper
does not say which it uses. ``hf:NAME`` has a third kind, ``own``, its default: the pooling that a sentence-transformers
folder names, the mean if it names none. Prompts of such a folder are not applied: write them into the templates.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from fusionerlib.encoders.base import EncoderSpec, LoadOptions, TextTower, WeightFile, digest, file_digest
from fusionerlib.encoders.weights import locate
from fusionerlib.errors import FusionerError

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
"""What a repository in transformers' published format must hold."""
SENTENCE_FILES = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
"""The files that sentence-transformers adds."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json")
LONGEST = 512
"""The limit of word pieces a sentence where neither the tokenizer nor the network has one."""


class SentenceNetwork(nn.Module):
    """A transformers network and its tokenizer as a module from sentences to one vector each.

    pooling: ``mean`` over the tokens that are not padding, or ``cls``, the first token. longest: word pieces a
    sentence, longer ones are cut. lower: lowercase the sentences first.
    """

    def __init__(
        self, network: nn.Module, *, tokenizer: Any, pooling: str, longest: int = LONGEST, lower: bool = False
    ) -> None:
        super().__init__()
        self.network, self.tokenizer, self.pooling = network, tokenizer, pooling
        self.longest, self.lower = longest, lower
        upper, folded = (tokenizer(text)["input_ids"] for text in ("CAT", "cat"))
        self.cased = not lower and list(upper) != list(folded)

    def forward(self, sentences: list[str]) -> Float[Tensor, "sentences dim"]:
        """Pooled embeddings, not normalised, float32."""
        device = next(self.network.parameters()).device
        texts = [sentence.lower() for sentence in sentences] if self.lower else sentences
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        batch = batch.to(device)
        # Pooled in float32: a sum over tokens in half precision would lose digits.
        hidden: Tensor = self.network(**batch).last_hidden_state.float()
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = batch["attention_mask"].unsqueeze(-1).float()
        return (hidden * weight).sum(1) / weight.sum(1)


def make_spec(name: str) -> EncoderSpec:
    """The spec of ``hf:NAME``: a local folder, or a repository of the hub (``owner/name``) in the same layout.

    Raises FusionerError where NAME is neither.
    """
    local = Path(name).is_dir()
    if not local and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise FusionerError(
            f"hf:{name} is neither a folder nor a name on the hub: write hf:FOLDER, or hf:owner/name such as "
            "hf:sentence-transformers/all-MiniLM-L6-v2"
        )
    files = tuple(
        WeightFile(file=file, repo=name, optional=file in SENTENCE_FILES) for file in (*FILES, *SENTENCE_FILES)
    )
    return EncoderSpec(
        name=f"hf:{name}",
        role="text",
        family="transformers",
        space=f"hf:{name}",
        width=0,
        parameters=0,
        loader="fusionerlib.encoders.sentences:load",
        pretraining="see the model's own card",
        licence="see the model's own card",
        languages="",
        tokens=("own", "mean", "cls"),
        files=() if local else files,
        options={"folder": name} if local else {},
    )


def load(spec: EncoderSpec, options: LoadOptions) -> TextTower:
    """A text encoder from a folder in transformers' published format. Raises FusionerError where files are missing."""
    given = options.weights or spec.options.get("folder", "")
    folder = Path(given) if given else locate(spec)
    lacking = [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "vocab.json")):
        lacking.append("tokenizer.json")
    if lacking:
        raise FusionerError(
            f"encoder {spec.name!r}: {folder} lacks {' and '.join(lacking)}: expected a folder in transformers' "
            "format with safetensors, as `save_pretrained` of both the model and its tokenizer writes it"
        )
    return load_folder(folder, spec=spec, options=options, sha256=file_digest(folder / "model.safetensors"))


def load_folder(folder: Path, *, spec: EncoderSpec, options: LoadOptions, sha256: str) -> TextTower:
    """The encoder in ``folder``; ``sha256`` is the hex digest of its weights.

    Raises FusionerError where transformers can't read it, or the weights are not those of the network in its config.
    """
    pooling = own_pooling(folder) if options.tokens == "own" else options.tokens
    settings = _json(folder / "sentence_bert_config.json")
    try:
        network, tokenizer = _from_transformers(folder)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise FusionerError(
            f"encoder {spec.name!r}: {folder} can't be read ({reason}): fetch or save it again, with safetensors"
        ) from error
    limits = (settings.get("max_seq_length") or LONGEST, tokenizer.model_max_length, _positions(network))
    lower = bool(settings.get("do_lower_case"))
    sentences = SentenceNetwork(network, tokenizer=tokenizer, pooling=pooling, longest=min(limits), lower=lower)
    fingerprint = folder_fingerprint(folder, sha256, pooling=pooling, longest=min(limits), lower=lower)
    width = network.config.hidden_size
    return TextTower(sentences, spec=spec, options=options, width=width, fingerprint=fingerprint)


def folder_fingerprint(folder: Path, sha256: str, *, pooling: str, longest: int, lower: bool = False) -> str:
    """Hex digest of what decides the embeddings: weights (``sha256``), ``SentenceNetwork``'s settings, other files."""
    files = [folder / file for file in ("config.json", *TOKENIZER_FILES) if (folder / file).is_file()]
    return digest(" ".join([sha256, pooling, str(longest), str(lower), *map(file_digest, files)]))


def own_pooling(folder: Path) -> str:
    """The pooling that a sentence-transformers folder names; ``mean`` for a plain transformers folder.

    Raises FusionerError for a pooling other than mean or cls, and for further layers after the pooling.
    """
    types = {module["type"].rpartition(".")[2] for module in _json(folder / "modules.json") or ()}
    further = sorted(types - {"Transformer", "Pooling", "Normalize"})
    if further:
        raise FusionerError(f"{folder} adds {', '.join(further)} after the network: choose tokens mean or cls instead")
    given = _json(folder / "1_Pooling" / "config.json")
    if not given and "Pooling" in types:
        raise FusionerError(f"{folder} lacks 1_Pooling/config.json, which its modules.json names: copy it there too")
    # sentence-transformers wrote a switch for each mode until 5.x, and writes one mode or a list of modes since.
    switches = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes = given.get("pooling_mode") or [
        switches.get(key, key.removeprefix("pooling_mode_"))
        for key, on in given.items()
        if key.startswith("pooling_mode_") and on
    ]
    modes = [modes] if isinstance(modes, str) else list(modes) or ["mean"]
    if len(modes) > 1 or modes[0] not in ("mean", "cls"):
        raise FusionerError(
            f"{folder / '1_Pooling' / 'config.json'} pools by {' and '.join(modes)}, which is not supported: "
            "choose tokens mean or cls, or another model"
        )
    return str(modes[0])


def _from_transformers(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with _quiet():
        # nosec B615 below: ``folder`` is on this machine and local_files_only is set, nothing is downloaded.
        config = AutoConfig.from_pretrained(folder, **safe)  # nosec B615
        if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
            raise ValueError(f"a {config.model_type} network is not an encoder of sentences such as BERT")
        network, report = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **safe)  # nosec B615
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", **safe)  # nosec B615
    # The pooler is not used, and RoBERTa is published without one.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"model.safetensors lacks {len(missing)} of the network's tensors, such as {missing[0]}")
    return network, tokenizer


def _positions(network: nn.Module) -> int:
    """The number of word pieces that the network has positions for: 512 of RoBERTa's 514, which start after padding."""
    table = getattr(getattr(network, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return LONGEST
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _json(file: Path) -> Any:
    """The content of ``file``, {} if it does not exist."""
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise FusionerError(f"{file} is not JSON ({error}): fetch or copy it again") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' progress bar and its report on unused heads."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
