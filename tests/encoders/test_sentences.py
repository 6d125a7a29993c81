"""BERT and RoBERTa in their published formats, against networks used by hand.

The references never read the folders: they are the networks in memory that the folders were written from, one sentence
at a time (so without padding), with word pieces that the test knows.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fusionerlib.encoders.base import TextEncoder
from fusionerlib.encoders.registry import get_spec, list_encoders, load_text
from fusionerlib.errors import FusionerError
from tests.encoders.text_models import (
    NAMES,
    TEMPLATES,
    Pieces,
    bert_pieces,
    by_hand,
    publish_bert,
    publish_roberta,
    unit,
    write_json,
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("bert")
    return folder, publish_bert(folder)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Pieces]:
    folder = tmp_path_factory.mktemp("roberta")
    return folder, *publish_roberta(folder)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_bert_is_its_network_used_by_hand(bert, pooling: str) -> None:
    folder, network = bert
    text = load_text("bert-base", weights=str(folder), tokens=pooling)
    assert isinstance(text, TextEncoder) and text.width == 24
    torch.testing.assert_close(text(NAMES, TEMPLATES), by_hand(network, bert_pieces, pooling), atol=1e-5, rtol=1e-4)


def test_bert_ignores_case_as_uncased_weights_want(bert) -> None:
    text = load_text("bert-base", weights=str(bert[0]))
    torch.testing.assert_close(text(["Blue DOGS"], TEMPLATES), text(["blue dogs"], TEMPLATES))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_roberta_is_its_network_used_by_hand(roberta, pooling: str) -> None:
    folder, network, pieces = roberta
    text = load_text("roberta-base", weights=str(folder), tokens=pooling)
    torch.testing.assert_close(text(NAMES, TEMPLATES), by_hand(network, pieces, pooling), atol=1e-5, rtol=1e-4)


def test_mean_is_the_default_and_other_ways_are_refused(bert) -> None:
    folder = str(bert[0])
    mean = load_text("bert-base", weights=folder, tokens="mean")(NAMES, TEMPLATES)
    assert torch.equal(load_text("bert-base", weights=folder)(NAMES, TEMPLATES), mean)
    assert torch.equal(load_text(f"hf:{folder}")(NAMES, TEMPLATES), mean)
    with pytest.raises(FusionerError, match="no tokens 'max': expected one of mean, cls"):
        load_text("bert-base", weights=folder, tokens="max")


def test_a_sentence_that_is_too_long_is_cut_before_positions_run_out(roberta) -> None:
    folder, network, pieces = roberta
    text = load_text(f"hf:{folder}")
    assert text.network.longest == 20  # 22 positions; RoBERTa's begin after its padding's index 1
    long = "a photo of one blue cat " * 8
    cut = [*pieces(long)[:19], 2]
    with torch.no_grad():
        expected = network(input_ids=torch.tensor([cut])).last_hidden_state[0].mean(0)
    torch.testing.assert_close(text([long], ["{}"])[0], unit(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_names_it(bert, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(bert[0], tmp_path / "cut", ignore=shutil.ignore_patterns(file, "vocab.txt"))
    with pytest.raises(FusionerError, match=rf"{folder} lacks {file}: .*save_pretrained"):
        load_text(f"hf:{folder}")
    with pytest.raises(FusionerError, match=rf"'bert-base': {folder} lacks {file}"):
        load_text("bert-base", weights=str(folder))


def test_weights_of_another_network_are_refused(bert, tmp_path: Path) -> None:
    folder = shutil.copytree(bert[0], tmp_path / "other")
    save_file({"x.weight": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FusionerError, match=r"lacks \d+ of the network's tensors, such as embeddings"):
        load_text(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(b"<html>" * 20)
    with pytest.raises(FusionerError, match=r"can't be read"):
        load_text(f"hf:{folder}")
    write_json(folder / "config.json", {"model_type": "t5", "is_encoder_decoder": True})
    with pytest.raises(FusionerError, match="t5 network is not an encoder of sentences"):
        load_text(f"hf:{folder}")


def test_a_name_that_is_neither_folder_nor_hub_is_refused() -> None:
    with pytest.raises(FusionerError, match=r"hf:/no/such/folder is neither a folder nor a name on the hub"):
        get_spec("text", "hf:/no/such/folder")
    assert get_spec("text", "hf:owner/some-name_1.0").files[0].repo == "owner/some-name_1.0"


def test_half_precision_is_close(bert) -> None:
    exact = load_text("bert-base", weights=str(bert[0]))
    half = load_text("bert-base", weights=str(bert[0]), precision="bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    tokens = half(NAMES, TEMPLATES)
    assert tokens.dtype == torch.float32 and not torch.equal(tokens, exact(NAMES, TEMPLATES))
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(tokens, exact(NAMES, TEMPLATES), atol=0.02, rtol=0.02)
    assert half.fingerprint != exact.fingerprint


def test_frozen_stays_frozen(bert) -> None:
    text = load_text("bert-base", weights=str(bert[0]))
    before = {name: tensor.clone() for name, tensor in text.state_dict().items()}
    text.train()
    first, head = text(NAMES, TEMPLATES), nn.Linear(24, 3)
    optimiser = torch.optim.SGD([*text.parameters(), *head.parameters()], lr=1.0)
    head(first).sum().backward()
    optimiser.step()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in text.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in text.state_dict().items())
    assert torch.equal(text(NAMES, TEMPLATES), first)  # no dropout either


def test_fingerprint_covers_weights_pooling_and_tokenizer(bert, tmp_path: Path) -> None:
    def fingerprint(folder: Path, tokens: str = "mean") -> str:
        return load_text(f"hf:{folder}", tokens=tokens).fingerprint

    first = fingerprint(bert[0])
    moved = shutil.copytree(bert[0], tmp_path / "moved")
    assert fingerprint(moved) == first != fingerprint(bert[0], "cls")
    tokenizer = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(tokenizer.replace('"lowercase": true', '"lowercase": false'))
    assert fingerprint(moved) != first
    (moved / "tokenizer.json").write_text(tokenizer)
    write_json(moved / "sentence_bert_config.json", {"max_seq_length": 8})
    assert fingerprint(moved) != first


SHAPES: dict[str, dict[str, int]] = {
    "bert-base": {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "bert-large": {"vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "roberta-base": {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "roberta-large": {"vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "minilm-l6": {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "mpnet-base": {"vocab_size": 30527, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
"""The published configs; the inner width is four times the outer one in all of them."""


@pytest.mark.parametrize("name", list(SHAPES))
def test_rows_say_what_the_published_networks_are(name: str) -> None:
    from transformers import AutoConfig, AutoModel

    kind = {"roberta": "roberta", "mpnet": "mpnet"}.get(name.split("-")[0], "bert")
    more = {
        "roberta": {"max_position_embeddings": 514, "type_vocab_size": 1},
        "mpnet": {"max_position_embeddings": 514},
    }
    shape = {**SHAPES[name], "intermediate_size": 4 * SHAPES[name]["hidden_size"], **more.get(kind, {})}
    with torch.device("meta"):
        network = AutoModel.from_config(AutoConfig.for_model(kind, **shape))
    spec = get_spec("text", name)
    assert spec.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert spec.width == network.config.hidden_size
    weights = next(file for file in spec.files if file.file == "model.safetensors")
    # float32 tensors; heads of language models stand beside the encoder's
    assert 0 < weights.bytes - 4 * spec.parameters < 4 * spec.width**2 + 300_000


def test_published_files_are_pinned() -> None:
    for spec in list_encoders("text"):
        if spec.loader == "fusionerlib.encoders.sentences:load":
            assert all(len(file.revision) == 40 and file.bytes for file in spec.files)
            assert [len(file.sha256) for file in spec.files if file.file == "model.safetensors"] == [64]
