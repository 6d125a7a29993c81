"""A name meets the encoder once: within a process, and across processes that share a folder."""

import pytest
import torch

from fusionerlib import Segmenter, checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.encoders.registry import load_text
from fusionerlib.features.context import RunContext
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import build


class Counting:
    """The packaged encoder, with a list of every name that reached it."""

    def __init__(self) -> None:
        self.inner, self.asked = load_text("packaged"), []
        self.name, self.width = self.inner.name, self.inner.width
        self.space, self.fingerprint = self.inner.space, self.inner.fingerprint

    def __call__(self, names, templates):
        self.asked += names
        return self.inner(names, templates)


@pytest.fixture(scope="module")
def encoder():
    return Counting()


def test_tokens_are_the_encoders_in_the_order_asked(encoder) -> None:
    table = TextEmbeddingCache(encoder=encoder, templates=["a {}.", "{}"])
    table.add(["cat", "dog"])
    expected = encoder.inner(["dog", "cow", "cat"], ["a {}.", "{}"])
    torch.testing.assert_close(table.tokens(["dog", "cow", "cat"]), expected, atol=1e-5, rtol=1e-4)


def test_another_process_finds_them_on_disk(encoder, tmp_path) -> None:
    first = TextEmbeddingCache(encoder=encoder, templates=["{}"], folder=tmp_path)
    tokens = first.tokens(["cat", 'a "quoted" näme'])
    encoder.asked.clear()
    again = TextEmbeddingCache(encoder=encoder, templates=["{}"], folder=tmp_path)
    assert torch.equal(again.tokens(['a "quoted" näme', "cat"]), tokens.flip(0)) and encoder.asked == []
    TextEmbeddingCache(encoder=encoder, templates=["a {}"], folder=tmp_path).tokens(["cat"])
    assert encoder.asked == ["cat"]
    first.file.write_bytes(b"broken")
    encoder.asked.clear()
    assert torch.allclose(
        TextEmbeddingCache(encoder=encoder, templates=["{}"], folder=tmp_path).tokens(["cat"]), tokens[:1], atol=1e-5
    )
    assert encoder.asked == ["cat"]


def test_padding_is_masked(encoder) -> None:
    table = TextEmbeddingCache(encoder=encoder, templates=["{}"])
    tokens, mask = table.padded([["cat"], ["dog", "cow"]])
    assert mask.tolist() == [[True, False], [True, True]] and not tokens[0, 1].any()
    assert torch.equal(tokens[1], table.tokens(["dog", "cow"]))


def test_names_held_at_once_are_bounded(encoder) -> None:
    table = TextEmbeddingCache(encoder=encoder, templates=["{}"], limit=3)
    encoder.asked.clear()
    first = table.tokens(["cat"])
    for place in range(9):
        table.tokens(["cat", f"name {place}"])
    assert len(table._tokens) <= 3 and encoder.asked.count("cat") == 1
    assert torch.equal(table.tokens(["cat"]), first)


def test_synonyms_are_averaged_with_the_name(encoder) -> None:
    table = TextEmbeddingCache(encoder=encoder, templates=["a {}"], synonyms={"sofa": ["couch", "settee"]})
    tokens = table.tokens(["cat", "sofa"])
    words = encoder.inner(["sofa", "couch", "settee"], ["a {}"])
    mean = words.mean(0)
    torch.testing.assert_close(tokens[1], mean / mean.norm(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[0], encoder.inner(["cat"], ["a {}"])[0], atol=1e-5, rtol=1e-4)


def test_other_synonyms_are_another_file(encoder, tmp_path) -> None:
    files = {
        TextEmbeddingCache(encoder=encoder, templates=["{}"], synonyms=s, folder=tmp_path).file
        for s in ({}, {"a": ["b"]})
    }
    assert len(files) == 2


def test_identifiers_are_what_the_encoder_is_given(encoder, tmp_path) -> None:
    encoder.asked.clear()
    spelled = TextEmbeddingCache(encoder=encoder, templates=["a {}."], names="identifiers", folder=tmp_path)
    tokens = spelled.tokens(["dining table", "tv", "couch", "lighthouse", "sofa"])
    assert encoder.asked == ["diningtable", "tvmonitor", "sofa", "lighthouse"], "names stay names, and meet once"
    torch.testing.assert_close(tokens[0], encoder.inner(["diningtable"], ["a {}."])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[2], tokens[4])
    plain = TextEmbeddingCache(encoder=encoder, templates=["a {}."], folder=tmp_path)
    assert plain.file != spelled.file
    assert not torch.allclose(plain.tokens(["dining table"])[0], tokens[0], atol=1e-2)


def test_a_run_s_spelling_reaches_training_and_segmenter(tmp_path) -> None:
    run = RunConfig.flat(names="identifiers", width=24, features=str(tmp_path))
    assert RunContext(run).text_cache.spelling == "identifiers"
    checkpoints.save(
        tmp_path, model=build(run.fusion, visual_width=432, text_width=384), run=run, trained_names=["dining table"]
    )
    assert Segmenter.load(tmp_path).text_cache.spelling == "identifiers"


def test_an_encoder_named_by_a_path_keeps_its_words_in_the_folder(encoder, tmp_path) -> None:
    named = Counting()
    named.name = "vectors:../tables/clip b32.parquet"
    table = TextEmbeddingCache(encoder=named, templates=["{}"], folder=tmp_path)
    table.tokens(["cat"])
    assert [file.parent for file in tmp_path.rglob("*.safetensors")] == [tmp_path]
