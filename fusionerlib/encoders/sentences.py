"""Text encoders of transformers: BERT, RoBERTa, MiniLM and any sentence-transformers folder (``hf:NAME``).

The paper does not say how it makes one token of a sentence with BERT: the attention-masked mean of the last layer is
our default, the first token ([CLS]) an option.
"""

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fusionerlib.encoders.row import EncoderRow, Loading, WeightFile
from fusionerlib.encoders.towers import TextTower, file_digest
from fusionerlib.encoders.weights import locate


class SentenceNetwork(nn.Module):
    """Sentences to one vector each, the last layer pooled.

    pooling: ``mean`` over the tokens that are no padding, or ``cls``, the first token.
    longest: word pieces of a sentence, the rest is cut.
    """

    def __init__(self, network: nn.Module, *, tokenizer: Any, pooling: str, longest: int) -> None:
        super().__init__()
        self.network, self.tokenizer, self.pooling, self.longest = network, tokenizer, pooling, longest

    def forward(self, sentences: list[str]) -> Float[Tensor, "sentences dim"]:
        """Pooled, not normalised embeddings."""
        device = next(self.network.parameters()).device
        batch = self.tokenizer(
            sentences, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(device)
        hidden: Tensor = self.network(**batch).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
"""What a folder of transformers' published format must hold."""


def row(name: str) -> EncoderRow:
    """The row of ``hf:NAME``: a repository of the hub (``owner/name``) or a local folder in its layout."""
    folder = Path(name)
    local = folder.is_dir()
    return EncoderRow(
        name=f"hf:{name}",
        role="text",
        family="transformers",
        space=f"hf:{name}",
        width=0,
        parameters=0,
        loader="fusionerlib.encoders.sentences:load",
        pretraining="see the model's own card",
        licence="see the model's own card",
        tokens=("mean", "cls"),
        files=() if local else tuple(WeightFile(file=file, repo=name) for file in FILES),
        options={"folder": name} if local else {},
    )


def load(row: EncoderRow, how: Loading) -> TextTower:
    """A text encoder from a folder in transformers' published format. Raises FusionerError where it is not there."""
    folder = Path(row.options["folder"]) if "folder" in row.options and not how.weights else locate(row, how.weights)
    return load_folder(folder, row=row, how=how, sha256=file_digest(folder / "model.safetensors"))


def load_folder(folder: Path, *, row: EncoderRow, how: Loading, sha256: str) -> TextTower:
    """The encoder in ``folder``, whose weights' hex digest is ``sha256``."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a hundred small tensors are there at once; the bar would only litter notebooks
    network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    if shown:
        logging.enable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    longest = min(_longest(folder), tokenizer.model_max_length)
    sentences = SentenceNetwork(network, tokenizer=tokenizer, pooling=how.tokens, longest=longest)
    return TextTower(sentences, row=row, how=how, width=network.config.hidden_size, fingerprint=sha256)


def _longest(folder: Path) -> int:
    settings = folder / "sentence_bert_config.json"
    return int(json.loads(settings.read_text())["max_seq_length"]) if settings.is_file() else 256
