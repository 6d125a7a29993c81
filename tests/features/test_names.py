"""What the packaged encoder knows of a name, and what is said of names that it does not know."""

import math

import pytest
import torch

from fusionerlib.encoders.imagenet import _imagenet, class_names
from fusionerlib.encoders.registry import load_text
from fusionerlib.features.names import SHOWN, known, notes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.name_forms import everyday

TRAINED = ("person", "cat", "dog", "horse", "dining table", "bicycle", "tv")


@pytest.fixture(scope="module")
def encoder():
    return load_text("packaged", tokens="class_posteriors")


@pytest.fixture(scope="module")
def cache(encoder):
    return TextEmbeddingCache(
        encoder=encoder, templates=["{}"], synonyms=everyday().words, table=everyday(), names="words"
    )


def said(cache, *names) -> str:
    return " | ".join(notes(cache, names, trained_names=TRAINED))


def test_the_listed_classes_are_imagenets() -> None:
    info = _imagenet()
    assert [", ".join(names) for names in class_names()] == [info.index_to_description(n) for n in range(1000)]


@pytest.mark.parametrize(
    ("name", "kind", "of"),
    [
        ("Dogs", "exact", "dog"),
        ("traffic light", "exact", "traffic light"),
        ("human", "synonym", "person"),
        ("a kitten", "synonym", "cat"),
        ("water", "synonym", "lakeside"),
        ("red car", "near", "car"),
        ("sky", "none", "plane"),
        ("paw", "none", "canine"),
        ("justice", "none", "prison"),
    ],
)
def test_how_well_a_name_is_known(cache, name, kind, of) -> None:
    found = known(cache, name)
    assert (found.kind, found.of) == (kind, of)


def test_entropy_is_that_of_the_distribution(cache, encoder) -> None:
    row = encoder(["justice"], ["{}"])[0].double()
    chances = [value / float(row.sum()) for value in row.tolist()]
    assert known(cache, "justice").entropy == pytest.approx(-sum(p * math.log(p) for p in chances if p), abs=1e-3)
    assert known(cache, "rug").entropy < 0.1


def test_an_encoder_without_classes_says_nouns_only() -> None:
    plain = TextEmbeddingCache(encoder=load_text("packaged"), templates=["{}"])
    assert known(plain, "sky").kind == "exact" and known(plain, "skyy").kind == "none"
    assert math.isnan(known(plain, "sky").entropy)


def test_forms_and_synonyms_have_the_tokens_they_should(cache, encoder) -> None:
    person = cache.tokens(["person"])[0]
    for written in ("Person", " person ", "a photo of a person", "persons"):
        assert torch.equal(cache.tokens([written])[0], person)
    human, settee = cache.tokens(["human", "settee"])
    assert float(human @ person) > 0.98 and not torch.equal(human, person)
    assert float(settee @ cache.tokens(["couch"])[0]) > 0.98, "a settee is no setter"
    lakes = encoder(["lakeside", "seashore"], ["{}"]).mean(0)
    torch.testing.assert_close(cache.tokens(["water"])[0], lakes / lakes.norm(), atol=1e-5, rtol=1e-4)


def test_identifiers_and_no_table_leave_names_as_they_are(encoder) -> None:
    raw = TextEmbeddingCache(encoder=encoder, templates=["{}"], table=everyday(), names="identifiers")
    assert raw.form(" A Photo of Cats") == " A Photo of Cats"
    torch.testing.assert_close(raw.tokens(["settee"])[0], encoder(["settee"], ["{}"])[0], atol=1e-5, rtol=1e-4)
    untabled = TextEmbeddingCache(encoder=encoder, templates=["{}"])
    torch.testing.assert_close(untabled.tokens(["a Settee"])[0], encoder(["settee"], ["{}"])[0], atol=1e-5, rtol=1e-4)


def test_nothing_is_said_of_names_with_masks(cache) -> None:
    assert (
        notes(cache, [*TRAINED, "Cats", "diningtable", "tiger", "red car", "blurry cat"], trained_names=TRAINED) == ()
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a photo of a dog", "is asked as 'dog'"),
        ("pesron", "did you mean 'person'?"),
        ("act", "did you mean 'cat'?"),
        ("dinning table", "did you mean 'dining table'?"),
        ("grey hores", "did you mean 'grey horse'?"),
        ("katze", "check its spelling and its language"),
        ("maison", "check its spelling and its language"),
        ("кошка", "Cyrillic"),
        ("猫", "Chinese"),
        ("🐱", "no letters"),
        ("woman", "much as 'person'"),
        ("hand", "a part of a person"),
        ("fur", "a part of an animal"),
        ("wall", "'stone wall' stands for it"),
        ("sky", "no class of the image encoder"),
        ("water", "'lakeside' and 'seashore' stand for it"),
        ("justice", "means nothing to this model"),
        ("zxqv", "no English word"),
    ],
)
def test_what_is_said_of_a_name(cache, name, told) -> None:
    assert told in said(cache, name) and repr(name) in said(cache, name)


def test_many_notes_of_a_kind_are_counted(cache) -> None:
    strange = [f"zxq{letter}v" for letter in "abcdefghijklmn"]
    told = notes(cache, strange, trained_names=TRAINED)
    assert len(told) == SHOWN + 1 and told[-1].startswith("the same holds for 4 more: zxqkv, zxqlv")
    assert notes(cache, ["cat"] * 300, trained_names=TRAINED) == ("only the first 100 of 300 names were looked up",)
