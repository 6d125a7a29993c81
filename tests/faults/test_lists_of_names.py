"""Lists of names, images, templates and synonyms as people and tools write them."""

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusionerlib import FusionerError, read_folder
from fusionerlib.cli.inputs import names_given, photos_given
from fusionerlib.datasets.formats.names import read_names, read_table
from fusionerlib.encoders.prompts import synonyms, templates
from tests.faults.coco_files import HEIGHT, WIDTH, filled
from tests.faults.test_coco_shapes import told
from tests.faults.test_where_pictures_lie import picture

THREE = {1: "cat", 2: "traffic light", 3: "größe"}
ZERO = {0: "background", 1: "cat", 2: "traffic light", 3: "größe"}
APART = {0: "background", 3: "cat", 7: "traffic light", 255: "ignore"}
FORMS: dict[str, tuple[str, str, dict[int, str]]] = {
    "lines": ("names.txt", "cat\ntraffic light\ngröße\n", THREE),
    "lines of Windows": ("names.txt", "cat\r\ntraffic light\r\ngröße\r\n", THREE),
    "lines of an old Mac": ("names.txt", "cat\rtraffic light\rgröße", THREE),
    "comments": ("names.txt", "# of 2024\ncat  # a pet\ntraffic light\n# more\ngröße", THREE),
    "quotes": ("names.txt", "\"cat\"\n'traffic light'\n\"größe\"", THREE),
    "tabs around": ("names.txt", "\tcat \n traffic  light\t\ngröße", THREE),
    "one line, commas": ("names.txt", "cat, traffic light, größe", THREE),
    "one line, semicolons": ("names.txt", "cat;traffic light;größe;\n", THREE),
    "index space": ("names.txt", "3 cat\n7 traffic light\n0 background\n255 void", APART),
    "index colon": ("names.txt", "0: background\n3: cat\n7: traffic light\n255: ignore", APART),
    "index equals": ("names.txt", "0=background\n3=cat\n7 = traffic light\n255=void", APART),
    "index comma": ("names.txt", "0,_background_\n3,cat\n7,traffic light\n255,Void", APART),
    "index tab": ("names.txt", "0\tBackground\n3\tcat\n7\ttraffic light\n255\tunlabeled", APART),
    "index point": ("names.txt", "0. background\n3. cat\n7. traffic light\n255. void", APART),
    "index bracket": ("names.txt", "0) background\n3) cat\n7) traffic light\n255) void", APART),
    "index dash": ("names.txt", "0 - background\n3 - cat\n7 - traffic light\n255 - void", APART),
    "index arrow": ("names.txt", "0 -> background\n3 -> cat\n7 -> traffic light\n255 => void", APART),
    "a table with notes": ("names.txt", "0\tbackground\t-\n3\tcat\ta pet\n7\ttraffic light\t\n255\tvoid\t", APART),
    "a comma after each": ("names.txt", "cat,\ntraffic light,\ngröße,", THREE),
    "as in a program": ("names.txt", "// of 2024\n\"cat\",\n\"traffic light\",\n\"größe\",", THREE),
    "a list of Python": ("names.txt", "['cat', 'traffic light', 'größe']", THREE),
    "names with numbers": ("names.txt", "2-door car\n3.5t lorry", {1: "2-door car", 2: "3.5t lorry"}),
    "name first": ("names.txt", "background,0\ncat,3\ntraffic light,7\nvoid,255", APART),
    "name equals": ("names.txt", "background = 0\ncat = 3\ntraffic light = 7\nignore = 255", APART),
    "csv": ("names.csv", "name\ncat\ntraffic light\ngröße", THREE),
    "csv with indices": ("names.csv", "index,name\n0,background\n3,cat\n7,traffic light\n255,void", APART),
    "csv with more": ("names.csv", 'Name;Id;note\ncat;3;"a; pet"\ntraffic light;7;\nvoid;255;\nbackground;0;', APART),
    "csv without a header": ("names.csv", "0,background\n3,cat\n7,traffic light\n255,void", APART),
    "csv in a text file": ("names.txt", "id,name\n0,background\n3,cat\n7,traffic light\n255,void", APART),
    "json list": ("names.json", '["cat", "traffic light", "größe"]', THREE),
    "json list in a text file": ("names.txt", '["cat",\n "traffic light",\n "größe"]', THREE),
    "json list with background": ("names.json", '["background", "cat", "traffic light", "größe"]', ZERO),
    "json by index": ("names.json", '{"0": "background", "3": "cat", "7": "traffic light", "255": "void"}', APART),
    "json by name": ("names.json", '{"background": 0, "cat": 3, "traffic light": 7, "void": 255}', APART),
    "json of rows": ("names.json", '[{"id": 3, "name": "cat"}, {"id": 7, "name": "lamp"}]', {3: "cat", 7: "lamp"}),
    "json under a key": ("names.json", '{"classes": ["cat", "traffic light", "größe"], "version": 2}', THREE),
    "coco's categories": ("names.json", '{"categories": [{"id": 3, "name": "cat", "color": "#f00"}]}', {3: "cat"}),
    "yaml list": ("names.yaml", "- cat\n- traffic light\n- größe\n", THREE),
    "yaml list in a text file": ("names.txt", "- cat\n- traffic light\n- größe\n", THREE),
    "yaml in brackets": ("names.yml", "[cat, traffic light, größe]", THREE),
    "yaml by index": ("names.yaml", "0: background\n3: cat\n7: traffic light\n255: void", APART),
    "yaml of YOLO": ("names.yaml", "path: ../x\nnames:\n  0: sky\n  1: cat # a pet\n", {0: "sky", 1: "cat"}),
    "yaml under a key": ("names.yaml", "nc: 3\nnames: [cat, traffic light, größe]", THREE),
    "labelmap": (
        "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ntraffic light:0,9,0::\ngröße:1,2,3:a,b:\n",
        ZERO,
    ),
    "labelmap without background": ("labelmap.txt", "cat:128,0,0::\ntraffic light:0,9,0::\ngröße:1,2,3::", THREE),
    "labelmap without colours": ("labelmap.txt", "background:::\ncat:::\ntraffic light:::\ngröße:::", ZERO),
    "quotes around both": ("names.txt", '"0","background"\n"3","cat"\n"7","traffic light"\n"255","void"', APART),
    "as R writes": ("names.txt", '"id" "name"\n"0" "background"\n"3" "cat"\n"7" "traffic light"\n"255" "void"', APART),
    "a heading": ("names.txt", "Index Name\n0 background\n3 cat\n7 traffic light\n255 void", APART),
    "as Roboflow writes": ("names.csv", "Pixel Value, Class\n0, bg\n3, cat\n7, traffic light\n255, void", APART),
    "indices with a point": ("names.txt", "0.0,background\n3.0,cat\n7.0,traffic light\n255.0,void", APART),
    "csv with a point": ("names.csv", "id,name\n0.0,background\n3.0,cat\n7.0,traffic light\n255.0,void,,", APART),
    "one line, indices": ("names.txt", "0: background, 3: cat, 7: traffic light, 255: void", APART),
    "one line, names first": ("names.txt", "background=0; cat=3; traffic light=7; void=255;", APART),
    "comments of programs": ("names.txt", "% MATLAB\n0 bg // none\n3 cat // pet\n7 traffic light\n255 void", APART),
    "lines ended twice": ("names.txt", "cat\r\r\ntraffic light\r\r\ngröße\r\r\n", THREE),
    "marks inside": ("names.txt", "\ufeffcat\n\ufefftraffic light\u200b\ngröße\n\x1a", THREE),
    "as Excel separates": ("names.csv", "sep=;\nid;name\n0;background\n3;cat\n7;traffic light\n255;void", APART),
    "csv over two lines": ("names.csv", 'id,name\n0,background\n3,cat\n7,"traffic\nlight"\n255,void', APART),
    "csv of pandas": ("names.csv", ",name\n1,cat\n2,traffic light\n3,größe", THREE),
    "json of a model": ("names.json", '{"id2label": {"3": "cat", "7": "lamp"}, "label2id": {}}', {3: "cat", 7: "lamp"}),
    "json by name, as text": ("names.json", '{"cat": "3", "lamp": "7"}', {3: "cat", 7: "lamp"}),
    "colours": ("label_colors.txt", "128 0 0\tcat\n0 9 0\ttraffic light\n1 2 3\tgröße\n", THREE),
}  # fmt: skip


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(("name", "text", "expected"), FORMS.values(), ids=FORMS)
def test_every_form_of_a_list_has_the_names_at_their_indices(
    tmp_path: Path, name: str, text: str, expected: dict[int, str], coding: str
) -> None:
    mark = codecs.BOM_UTF16_BE if coding == "utf-16-be" else b""
    (tmp_path / name).write_bytes(mark + text.encode(coding))
    assert read_names(tmp_path / name) == expected
    asked = [name for _, name in sorted(expected.items()) if name not in ("background", "ignore")]
    if Path(name).suffix != ".txt" or "label" not in name:
        assert sorted(names_given(str(tmp_path / name))) == sorted(asked)


@given(
    names=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "Nd"]), min_size=2), min_size=2, max_size=9),
    form=st.sampled_from(["lines", "index", "json", "yaml", "csv"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_survive_every_form(tmp_path: Path, names: list[str], form: str) -> None:
    names = list({f"x{word}".casefold(): f"x{word}" for word in names}.values())
    indexed = dict(enumerate(names, start=1))
    texts = {
        "lines": ("a.txt", "\n".join(names)),
        "index": ("a.txt", "\n".join(f"{index}: {name}" for index, name in indexed.items())),
        "json": ("a.json", json.dumps(names)),
        "yaml": ("a.yaml", "\n".join(f"- {name}" for name in names)),
        "csv": ("a.csv", "id,name\n" + "\n".join(f"{index},{name}" for index, name in indexed.items())),
    }
    file, text = texts[form]
    (tmp_path / file).write_text(text, encoding="utf-8")
    try:
        assert read_names(tmp_path / file) == indexed
    except FusionerError as error:
        assert "one name to a text encoder" in str(error)


# Text that is none ----------------------------------------------------------------------------------------------------

LATIN = "Tür\ngrößer\n".encode("latin-1")


@pytest.mark.parametrize("name", ["names.txt", "train.txt", "templates.txt", "synonyms.json", "photos.txt"])
def test_text_in_another_encoding_is_named_with_the_remedy(tmp_path: Path, name: str) -> None:
    for number in range(3):
        folder_of(tmp_path, str(number), filled(0, 0, 5, 5).astype(np.uint8))
    (tmp_path / "names.txt").write_text("cell\n")
    (tmp_path / name).write_bytes(b'{"a": ["' + LATIN + b'"]}' if name.endswith("json") else LATIN)
    file = str(tmp_path / name)
    read: dict[str, Any] = {
        "names.txt": lambda: read_folder(tmp_path),
        "train.txt": lambda: read_folder(tmp_path, split="train"),
        "templates.txt": lambda: templates(file),
        "synonyms.json": lambda: synonyms(file),
        "photos.txt": lambda: photos_given([file]),
    }
    with pytest.raises(FusionerError, match=rf"{name} is not text in UTF-8 \(line 1, byte 0xfc\): save it as UTF-8"):
        read[name]()
    for coding in ("utf-16", "utf-8-sig"):
        good = {"names.txt": "cell", "train.txt": "# some\n1\n2", "templates.txt": "# mine\na {} größer"}.get(
            name, "1.png"
        )
        text = '{"Tür": ["größer"]}' if name.endswith("json") else good
        (tmp_path / name).write_bytes(text.encode(coding))
        read[name]()
    if name == "train.txt":
        assert [read_folder(tmp_path, split="train")[index].key for index in range(2)] == ["1", "2"]
    if name == "templates.txt":
        assert templates(file) == ("a {} größer",)
    if name == "synonyms.json":
        assert synonyms(file) == {"Tür": ("größer",)}


@pytest.mark.parametrize("text", ["- cat\n- 1: 2: 3", "[cat, [dog]]", '{"a": {"b": 1}}', "[1, 2", "{}", "[]", "- null"])
def test_a_structure_of_another_kind_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(FusionerError, match=r"names\.yaml (is neither JSON nor YAML|holds .* expected a list|names 0)"):
        read_names(tmp_path / "names.yaml")


ODD: dict[str, tuple[str, str]] = {
    "a heading alone": ("name\ncat\ndog", "begins with 'name', a heading, .* delete the line"),
    "one without its index": ("1 cat\n2 dog\nbird", "holds 'bird', which is not of the form of other lines"),
    "a negative index": ("-1 unlabeled\n1 cat\n2 dog", "holds '-1 unlabeled'"),
    "a comment of another kind": ("; by hand\n1 cat\n2 dog", "holds '; by hand'"),
    "one line of a labelmap": ("sky:0,0,9::\ncat:1,0,0::\ndog", "holds 'dog'"),
    "a protocol buffer": ("item {\n  id: 1\n  name: 'cat'\n}", "holds 'item {', which is no name"),
    "a page": ("<html>\n<body>cat</body>", "holds '<html>', which is no name"),
    "a program": ("NAMES = ['cat', 'dog']", "which is no name"),
    "a tuple": ("('cat',\n'dog')", "which is no name"),
    "a table": ("| 1 | cat |\n| 2 | dog |", "which is no name"),
    "stars": ("* cat\n* dog", "which is no name"),
    "brackets": ("[1] cat\n[2] dog", "neither JSON nor YAML|which is no name"),
    "another base": ("0x01 cat\n0x02 dog", "which is no name"),
    "keys": ("id=1 name=cat\nid=2 name=dog", "which is no name"),
    "tabs": ("cat\tdog\tbird", "which is no name"),
    "colours in hex": ("cat:#ff0000::\ndog:#00ff00::", "which is no name"),
    "a colour that is none": ("cat:300,0,0::\ndog:0,1,0::", "the colour 300, 0, 0: expected three whole numbers"),
    "a line of a novel": ("cat\n" + "x" * 100_000, "which is no name"),
    "many spaces": ("cat" + " " * 50_000 + "x:\ndog", "which is no name"),
    "a number of 50,000 digits": ("1" * 50_000 + " cat", "which is no name"),
    "labelme's first two": (
        "__ignore__\n_background_\ncat",
        "begins with '__ignore__', .* which would be index 1|begins",
    ),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9", "run `git lfs pull`"),
}
ODD_CSV = {
    "unknown headings": ("foo,bar\n1,cat\n2,dog", "holds 'foo,bar'"),
    "cells too many": ("id,name\n1,cat,x\n2,dog", "holds '1,cat,x', which does not fit its headings 'id,name'"),
    "an index that is none": ("id,name\none,cat\n2,dog", "holds 'one,cat', which does not fit"),
    "no name": ("id,name\n1,cat\n2,", "no name at index 2"),
    "an open quote": ('id,name\n1,"cat\n2,dog', "holds "),
    "numbers without a heading": (",name\n0,cat\n1,dog", r"a column of numbers without a heading \('0' first\)"),
    "colours that are words": ("name,r,g,b\ncat,red,0,0", "the colour red, 0, 0: expected three whole numbers"),
}
TWICE = ['{"1": "cat", "1": "dog"}', "1: cat\n1: dog", "names: [cat]\nnames: [dog]"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        *(("names.txt", *row) for row in ODD.values()),
        *(("names.csv", *row) for row in ODD_CSV.values()),
        *(("names.yaml", text, "twice: give each index a name of its own") for text in TWICE),
    ],
)
def test_what_is_no_list_of_names_is_never_believed(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FusionerError, match=rf"{name} .*({message})") as caught:
        read_names(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_a_structure_that_holds_itself_many_times_over_is_refused_at_once(tmp_path: Path) -> None:
    """Nine levels of nine: 400 million entries, were they written out."""
    levels = [
        f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    (tmp_path / "names.yaml").write_text("\n".join(["a: &a [x]", *levels, "names: [*i]"]))
    with pytest.raises(FusionerError, match="holds None at 1: expected a list of names"):
        read_names(tmp_path / "names.yaml")


@pytest.mark.parametrize(
    "row", ["{n} {r} {g} {b}", "{n},{r},{g},{b}", "{n}:{r},{g},{b}", "{i} {n} {r} {g} {b}", "{i}\t{n}\t({r}, {g}, {b})",
            "{i} {r} {g} {b} {n}", "{i},{n},{r},{g},{b}"]
)  # fmt: skip
def test_colours_behind_or_before_the_names_are_read(tmp_path: Path, row: str) -> None:
    rows = [("background", 0, 0, 0), ("cat", 128, 0, 1), ("traffic light", 0, 9, 2)]
    lines = [row.format(i=i, n=n, r=r, g=g, b=b) for i, (n, r, g, b) in enumerate(rows)]
    (tmp_path / "names.txt").write_text("\n".join(lines))
    table = read_table(tmp_path / "names.txt")
    assert table.names == {0: "background", 1: "cat", 2: "traffic light"}
    assert table.colours == {(0, 0, 0): 0, (128, 0, 1): 1, (0, 9, 2): 2}


@pytest.mark.parametrize("name", ["Names.TXT", "LabelMap.txt", "names.txt.txt", "class_names.txt", "names.tsv"])
def test_the_list_is_found_under_its_other_names(tmp_path: Path, name: str) -> None:
    root = tmp_path / "mine"
    folder_of(root, "a", filled(0, 0, 5, 5).astype(np.uint8))
    (tmp_path / "names.txt").write_text("a list of another data set, above this folder")
    with pytest.raises(FusionerError, match=r"mine/names\.txt is missing"):
        read_folder(root)
    (root / name).write_text("index\tname\n1\tcell\n")
    assert read_folder(root).names(0) == ("cell",)
    (root / "classes.csv").write_text("name\ndog\n")
    assert f"lists of other names, not read beside {name}: 1 (classes.csv)" in told(root)[1]


@pytest.mark.parametrize(
    "text", ["0.png\n1.png", "# mine\n0\n1", "0.png, 1.png", "images/0.png\r\nimages/1.png", '["0.png", "1"]', "0;1"]
)
def test_every_form_of_a_list_of_images(tmp_path: Path, text: str) -> None:
    for number in range(4):
        folder_of(tmp_path, str(number), filled(0, 0, 5, 5).astype(np.uint8))
    (tmp_path / "names.txt").write_text("cell\n")
    (tmp_path / "val.txt").write_text(text)
    scenes = read_folder(tmp_path, split="val")
    assert [scenes[index].key for index in range(len(scenes))] == ["0", "1"]


# Masks of colours -----------------------------------------------------------------------------------------------------

COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (1, 2, 3)]


def folder_of(root: Path, key: str, mask: np.ndarray, *, palette: list[int] | None = None) -> None:
    picture(root / "images" / f"{key}.png")
    (root / "masks").mkdir(exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image = Image.fromarray(mask, mode="P")
        image.putpalette(palette)
    image.save(root / "masks" / f"{key}.png")


@pytest.mark.parametrize("form", ["RGB", "RGBA", "palette", "palette in another order", "indices"])
def test_colour_masks_are_read_by_the_labelmap(tmp_path: Path, form: str) -> None:
    """CVAT writes ``labelmap.txt`` beside masks of colours, or with a palette."""
    order = np.random.default_rng(0).integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    rows = ["background:0,0,0::", "cat:128,0,0::", "void:0,128,0::", "traffic light:1,2,3:part:"]
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows))
    table = np.array(COLOURS, dtype=np.uint8)
    flat = [value for colour in COLOURS for value in colour]
    if form in ("RGB", "RGBA"):
        mask = table[order]
        alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        folder_of(tmp_path, "a", np.concatenate([mask, alpha], -1) if form == "RGBA" else mask)
    elif form == "palette":
        folder_of(tmp_path, "a", order, palette=flat)
    elif form == "palette in another order":
        folder_of(tmp_path, "a", 3 - order, palette=[value for colour in COLOURS[::-1] for value in colour])
    else:
        folder_of(tmp_path, "a", order)
    scene = read_folder(tmp_path)[0]
    assert scene.names == ("cat", "traffic light")
    np.testing.assert_array_equal(scene.labels, np.array([0, 1, 255, 2])[order])


def test_a_colour_that_is_not_listed_is_named(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[:2, :3] = (9, 8, 7)
    folder_of(tmp_path, "a", mask)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\n")
    with pytest.raises(
        FusionerError, match=r"a\.png holds 6 pixels of unknown colours, \(9, 8, 7\) first: not in .*labe"
    ):
        read_folder(tmp_path)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\ndog:128,0,0::")
    with pytest.raises(FusionerError, match=r"labelmap\.txt has the colour \(128, 0, 0\) twice"):
        read_table(tmp_path / "labelmap.txt")
