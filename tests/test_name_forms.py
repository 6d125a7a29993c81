"""Forms of a name: what folds to one, what stays apart, and what is suggested for a misspelling."""

import lzma

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusionerlib import name_forms
from fusionerlib.datasets import coco
from fusionerlib.datasets.names import categories, unseen
from fusionerlib.datasets.openmoji.glyphs import things
from fusionerlib.name_forms import everyday, form, same_forms, script, spelt_as, suggestions

KINDS = {
    "person": ["Person", " person ", "PERSON", "a person", "the person", "Persons", "a photo of a person", '"person"'],
    "cat": [
        "Cats",
        "cat.",
        "\uff43\uff41\uff54",
        "cat\u200b",
        "\tcat\n",
        "A photo of a Cat.",
        "a blurry picture of the cats",
    ],
    "horse": ["horses", "an image of my horse", "there is a horse in the scene.", "a close-up photo of the horse"],
    "dining table": ["dining_table", "DiningTable", "diningtable", "dining-table", "the dining tables"],
    "bus": ["buses", "a bus"],
    "mouse": ["mice"],
    "knife": ["knives"],
    "child": ["children"],
    "couch": ["couches"],
    "cow": ["cows", "Some cows"],
    "tv": ["TV", "TVs", "a TV"],
    "potted plant": ["Potted Plants", "pottedplant", "potted-plants"],
    "red car": ["a red car", "Red Car"],
    "apple": ["Apple", "an apple"],
}


@pytest.mark.parametrize("name", KINDS)
def test_ways_to_write_a_name_have_its_form(name):
    assert form(name) == name
    assert [form(written) for written in KINDS[name]] == [name] * len(KINDS[name])


@pytest.mark.parametrize(
    "name",
    ["glasses", "scissors", "sunglasses", "pants", "skis", "bus", "gas", "lens", "glass of wine", "a cappella", "the"],
)
def test_a_plural_or_an_article_that_belongs_to_the_word_stays(name):
    assert form(name) == name


def test_what_is_not_known_keeps_its_letters():
    assert form("zorbles") == "zorbles" and form("the zorble") == "the zorble"
    assert form("Zorble Gadget") == "zorble gadget" and form("Zorble Gadget", cased=True) == "Zorble Gadget"
    assert form("Apples", cased=True) == "apple", "a known word is folded for any encoder"
    assert form("...") == "..." and form("red cars") == "red cars"


@pytest.mark.parametrize("names", [coco.NAMES, [row.voc for row in categories()], list(things())])
def test_no_two_names_of_a_data_set_have_one_form(names):
    assert same_forms(names) is None
    assert [name for name in coco.NAMES if form(name) != name] == []


@given(st.text(max_size=30))
@example("\N{DASHED LOW LINE}")  # an underscore in its compatibility form
@example("low\N{FULLWIDTH LOW LINE}line")
def test_a_form_is_a_form_of_itself_whatever_the_case_and_space(text):
    found = form(text)
    assert form(found) == found
    assert form(f"  {text} ") == found
    assert form(text.replace(" ", "_")) == found


def test_every_name_of_coco_in_every_wrapping():
    for wrapping in ("{}", "a {}", "the {}", "a photo of a {}", "{}.", " {}"):
        for write in (str.lower, str.upper, str.title):
            assert [form(wrapping.format(write(name))) for name in coco.NAMES] == list(coco.NAMES)


def test_names_are_spelt_as_a_data_set_spells_them():
    assert spelt_as(["Cats", "dog", "unicorn"], ["cat", "Dog"]) == ("cat", "Dog", "unicorn")


def test_a_form_or_a_synonym_of_a_trained_name_is_not_unseen():
    assert unseen(["Cats", "kitty", "tiger", "Sofa"], trained=["cat", "couch"]) == ("tiger",)
    assert unseen(["cat", "couch", "diningtable"], trained=["a Kitten", "settee", "table"]) == ()
    assert unseen(["cat", "motorbike", "tv monitor"], trained=["dog", "motorcycle", "television"]) == ("cat",)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("pesron", "person"), ("bycicle", "bicycle"), ("horze", "horse"), ("chiar", "chair"), ("dgo", "dog")],
)
def test_swapped_wrong_and_missing_letters_are_suggested_and_never_changed(written, meant):
    assert suggestions(written, ["perch"], first=coco.NAMES)[0] == meant and form(written) == written


def test_nothing_is_suggested_for_what_is_far_away():
    assert suggestions("katze", coco.NAMES, first=coco.NAMES) == [] and suggestions("q", coco.NAMES) == []


def test_scripts():
    assert script("кошка") == "Cyrillic" and script("猫") == "Chinese" and script("고양이") == "Hangul"
    assert script("ネコ") == "Katakana" and script("قط") == "Arabic" and script("café №7") is None


def test_the_table_says_one_thing_of_a_name():
    table = everyday()
    sections = [set(table.instead), set(table.alike), set(table.parts), set(table.lacking), set(table.spelled)]
    twice = [(a & b) for place, a in enumerate(sections) for b in sections[:place] if a & b]
    assert twice == []
    assert set(table.alike.values()).isdisjoint(table.alike), "a name that others are asked as is itself"
    written = {*table.instead, *table.alike, *table.parts, *table.lacking, *table.others}
    assert {name for name in written if form(name) != name} == set(), "an entry of another form would never be found"


def test_the_list_of_nouns_is_made_of_wordnets_files(tmp_path):
    (tmp_path / "data.noun").write_text(
        "  1 This is the licence.\n"
        "00000020 05 n 02 mouse 0 Mus_musculus 0 001 @ 00000010 n 0000 | it squeaks\n"
        "00000030 05 n 02 tree 0 Christmas_tree 0 001 @ 00000010 n 0000 | it stands\n"
        "00000040 15 n 01 Rome 0 001 @i 00000010 n 0000 | a city\n"
        "00000050 05 n 01 cows 0 001 @ 00000010 n 0000 | cattle\n",
        encoding="latin-1",
    )
    (tmp_path / "noun.exc").write_text("mice mouse\ntrees tree\nzorbes zorb\n", encoding="latin-1")
    name_forms.rebuild(tmp_path, tmp_path / "nouns.xz")
    rows = lzma.decompress((tmp_path / "nouns.xz").read_bytes()).decode().splitlines()
    assert {"christmas tree", "mouse", "tree", "chihuahua"} < set(rows) and rows[-1] == "mice\tmouse"
    assert {"rome", "cows", "mus musculus", "zorbes\tzorb"}.isdisjoint(rows)
