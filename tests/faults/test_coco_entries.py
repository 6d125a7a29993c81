"""Images, categories and ids of COCO files as exports and joined files have them: the right labels, or told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionerlib import FusionerError, read_folder
from tests.faults.coco_files import HEIGHT, WIDTH, Json, box, filled, thing, written
from tests.faults.test_coco_shapes import told


def row(number: Any, file: Any = "0001.png", height: Any = HEIGHT, width: Any = WIDTH) -> Json:
    return {"id": number, "file_name": file, "height": height, "width": width}


# Ids and sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [1, 1.0, "1", " 1 ", "1.0", "0001", 2**60, "frame-1", "é"])
@pytest.mark.parametrize("category", [1, 1.0, "1", "cell-id"])
def test_an_id_is_the_same_however_it_is_written(tmp_path: Path, image: Any, category: Any) -> None:
    twin: dict[Any, Any] = {1: "1", "1": 1.0}
    things = [thing(twin.get(image, image), twin.get(category, category), box(2, 3, 9, 11))]
    root = written(tmp_path, things, rows=[row(image)], names=[{"id": category, "name": "cell"}], pictures=1)
    scenes, text = told(root)
    assert scenes.names(0) == ("cell",) and text == ""
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11))


@pytest.mark.parametrize("bad", [None, [], {}, "", "  ", 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["image", "category", "image_id", "category_id"])
def test_an_id_that_is_none_is_told(tmp_path: Path, bad: Any, where: str) -> None:
    rows = [row(bad if where == "image" else 1), row(2, "0002.png")]
    names = [{"id": bad if where == "category" else 1, "name": "cell"}, {"id": 2, "name": "fibre"}]
    first = thing(bad if where == "image_id" else 1, bad if where == "category_id" else 1, box(1, 1, 5, 5))
    scenes, text = told(written(tmp_path, [first, thing(2, 2, box(0, 0, 4, 4))], rows=rows, names=names))
    assert len(scenes) == 1 and scenes.names(0) == ("fibre",)
    np.testing.assert_array_equal(scenes[0].labels, filled(0, 0, 4, 4))
    expected = {
        "image": "images left out, they have no id or file_name: 1 (number 0 ('0001.png'))",
        "category": "categories left out, they have no id: 1 (number 0 ('cell'))",
        "image_id": "objects left out, no image has their image_id: 1 (annotation 1 (image_id ",
        "category_id": "objects whose category has no name, their pixels are ignored (255): 1 (image 0001.png, annot",
    }
    assert expected[where] in text


@pytest.mark.parametrize("height", [HEIGHT, str(HEIGHT), float(HEIGHT), f"{HEIGHT}.0"])
def test_a_size_is_the_same_however_it_is_written(tmp_path: Path, height: Any) -> None:
    root = written(tmp_path, [thing(1, 1, box(2, 3, 9, 11))], rows=[row(1, height=height)])
    np.testing.assert_array_equal(read_folder(root)[0].labels, filled(2, 3, 9, 11))


@pytest.mark.parametrize("height", [None, "", "tall", 0, -20, 20.5, float("nan"), [20], {}])
def test_a_size_that_is_none_is_taken_from_the_picture(tmp_path: Path, height: Any) -> None:
    rows = [row(1, height=height), row(2, "nowhere.png", width=height), row(3, "0002.png")]
    things = [thing(1, 1, box(2, 3, 9, 11)), thing(2, 1, box(0, 0, 4, 4)), thing(3, 2, box(0, 0, 4, 4))]
    scenes, text = told(written(tmp_path, things, rows=rows))
    assert [scenes.names(index) for index in range(len(scenes))] == [("cell",), ("fibre",)]
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11))
    assert "without a size in the file, taken from the pictures: 2 (0001.png; nowhere.png)" in text
    assert "left out, they have no size and no picture to take it from: 1 (nowhere.png)" in text


def test_a_size_that_no_picture_has_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    rows = [row(1, height=10**9, width=10**9), row(2, "0002.png")]
    things = [thing(1, 1, box(2, 3, 9, 11)), thing(2, 2, box(0, 0, 4, 4))]
    scenes, text = told(written(tmp_path, things, rows=rows))
    assert len(scenes) == 1 and "they have more than 178,956,970 pixels: 1 (0001.png (1000000000x1000000000))" in text


# Twice ----------------------------------------------------------------------------------------------------------------


def test_images_that_share_an_id_are_left_out(tmp_path: Path) -> None:
    """Whose objects are they? Nobody can say."""
    rows = [row(1), row(1, "0002.png"), row(3, "0003.png"), row(3, "0003.png")]
    things = [thing(1, 1, box(2, 3, 9, 11)), thing(3, 2, box(0, 0, 4, 4))]
    scenes, text = told(written(tmp_path, things, rows=rows, pictures=3))
    assert len(scenes) == 1 and scenes.names(0) == ("fibre",)
    assert "ids that several images share, all of which are left out: 1 (1 (0001.png, 0002.png))" in text
    assert "no image has their image_id: 1 (annotation 1 (image_id 1))" in text


def test_a_picture_that_is_listed_twice_has_the_objects_of_both(tmp_path: Path) -> None:
    rows = [row(1), row(7), row(2, "0002.png")]
    things = [thing(7, 1, box(2, 3, 9, 11)), thing(1, 2, box(10, 3, 19, 11)), thing(2, 2, box(0, 0, 4, 4))]
    scenes = read_folder(written(tmp_path, things, rows=rows))
    assert len(scenes) == 2 and scenes[0].names == ("cell", "fibre")
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11) + 2 * filled(10, 3, 19, 11).astype(int))


@pytest.mark.parametrize("other", ["images/0001.png", "./0001.png", "0001.PNG", "0001", "C:\\x\\0001.png"])
def test_a_picture_that_is_listed_twice_in_two_spellings_is_one(tmp_path: Path, other: str) -> None:
    things = [thing(1, 1, box(2, 3, 9, 11)), thing(7, 2, box(10, 3, 19, 11)), thing(2, 2, box(0, 0, 4, 4))]
    scenes, text = told(written(tmp_path, things, rows=[row(1), row(7, other), row(2, "0002.png")]))
    assert len(scenes) == 2 and f"listed more than once, read as one: 1 ({other} (id 7))" in text
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11) + 2 * filled(10, 3, 19, 11).astype(int))


def test_a_picture_is_not_taken_for_one_of_another_suffix(tmp_path: Path) -> None:
    things = [thing(1, 1, box(2, 3, 9, 11)), thing(7, 2, box(10, 3, 19, 11))]
    scenes, text = told(written(tmp_path, things, rows=[row(1), row(7, "0001.jpg")], pictures=1))
    assert (
        len(scenes) == 1 and scenes.names(0) == ("cell",) and "pictures are not in" in text and "1 (0001.jpg)" in text
    )


def test_a_picture_that_is_listed_at_two_sizes_fails_where_the_size_is_wrong(tmp_path: Path) -> None:
    things = [thing(1, 1, box(2, 3, 9, 11)), thing(7, 2, box(20, 6, 38, 22))]
    scenes = read_folder(written(tmp_path, things, rows=[row(1), row(7, "0001.png", 2 * HEIGHT, 2 * WIDTH)]))
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11))
    with pytest.raises(FusionerError, match=r"0001\.png is 30x20 pixels, .* says 60x40"):
        scenes[1]


def test_zeros_before_an_id_tell_apart_or_nothing(tmp_path: Path) -> None:
    rows = [row("001"), row("01", "0002.png"), row("0003", "0003.png")]
    things = [thing("001", 1, box(2, 3, 9, 11)), thing("01", 2, box(0, 0, 4, 4)), thing(3, "02", box(1, 1, 5, 5))]
    scenes, text = told(written(tmp_path, things, rows=rows, pictures=3))
    assert [scenes.names(index) for index in range(3)] == [("cell",), ("fibre",), ("fibre",)] and text == ""
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11))


def test_images_without_objects_and_pictures_that_are_not_listed_are_told(tmp_path: Path) -> None:
    root = written(tmp_path, [thing(1, 1, box(2, 3, 9, 11))], rows=[row(1), row(2, "0002.png")], pictures=3)
    text = told(root)[1]
    assert "images left out, they show no object: 1 (0002.png)" in text
    assert f"pictures of {root / 'images'} left out, instances.json does not list them: 1 (0003.png)" in text
    assert len(read_folder(root, strict=True)) == 1


@pytest.mark.parametrize("shape", [None, [], [[]], "absent"])
def test_bounding_boxes_alone_get_the_remedy_that_helps(tmp_path: Path, shape: Any) -> None:
    things = [thing(1, 1, shape), thing(2, 1, shape)]
    for item in things if shape == "absent" else ():
        del item["segmentation"]
    with pytest.raises(FusionerError, match="its objects have bounding boxes alone, so export polygons or masks"):
        read_folder(written(tmp_path, things))


def test_a_panoptic_file_is_named(tmp_path: Path) -> None:
    segments = {"image_id": 1, "file_name": "0001.png", "segments_info": [{"id": 1, "category_id": 1}]}
    with pytest.raises(FusionerError, match=r"is a COCO panoptic file, .* export instances"):
        read_folder(written(tmp_path, [segments]))


def test_one_category_id_with_two_names_is_refused(tmp_path: Path) -> None:
    names = [{"id": 1, "name": "cell"}, {"id": "1", "name": "fibre"}]
    with pytest.raises(FusionerError, match="the category id 1 has two names, 'cell' and 'fibre': give each category"):
        read_folder(written(tmp_path, [thing(1, 1, box(1, 1, 5, 5))], names=names))
    twice = [{"id": 1, "name": "cell"}, {"id": 1, "name": "Cell "}]
    assert read_folder(written(tmp_path, [thing(1, 1, box(1, 1, 5, 5))], names=twice)).categories == ("cell",)


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "", "   ", 7, ["cell"], "ce\0ll", "ce\ud800ll"])
def test_the_pixels_of_a_nameless_category_are_ignored(tmp_path: Path, name: Any) -> None:
    names = [{"id": 1, "name": name}, {"id": 2, "name": "fibre"}, {"id": 3}]
    things = [thing(1, 1, box(1, 1, 5, 5)), thing(1, 2, box(8, 1, 12, 5)), thing(1, 3, box(20, 1, 22, 5))]
    scenes, text = told(written(tmp_path, things, names=names))
    none = filled(1, 1, 5, 5) | filled(20, 1, 22, 5)
    np.testing.assert_array_equal(scenes[0].labels, np.where(none, 255, filled(8, 1, 12, 5)))
    assert scenes.categories == ("fibre",) and "categories without a name: 2" in text and "(255): 2 (image 00" in text


def test_names_that_differ_by_space_or_case_are_one(tmp_path: Path) -> None:
    written_so = ["Traffic light", " traffic  light ", "TRAFFIC LIGHT", "traffic\tlight", "Traffic lights", "kerb"]
    names = [{"id": number, "name": name} for number, name in enumerate(written_so)]
    things = [thing(1, number, box(3 * number, 1, 3 * number + 2, 5)) for number in range(6)]
    scenes, text = told(written(tmp_path, things, names=names))
    expected = sum(filled(3 * number, 1, 3 * number + 2, 5) * (1 if number < 5 else 2) for number in range(6))
    assert scenes[0].names == scenes.categories == ("Traffic light", "kerb")
    np.testing.assert_array_equal(scenes[0].labels, expected)
    assert "are one name to a text encoder, read as one: 4 ('traffic light' as 'Traffic light'; " in text


@pytest.mark.parametrize(
    "name",
    ["background", "_background_", "__background__", "Background", "BACKGROUND", "0 Background", "0: background"],
)
def test_background_is_no_class(tmp_path: Path, name: str) -> None:
    """As labelme and others write it: what it covers is background, even over a larger object."""
    names = [{"id": 0, "name": name}, {"id": 1, "name": "cell"}]
    things = [thing(1, 1, box(0, 0, 20, 20)), thing(1, 0, box(5, 5, 9, 9)), thing(2, 0, box(0, 0, WIDTH, HEIGHT))]
    scenes, text = told(written(tmp_path, things, names=names))
    assert len(scenes) == 1 and scenes.categories == scenes.names(0) == ("cell",)
    np.testing.assert_array_equal(scenes[0].labels, filled(0, 0, 20, 20) & ~filled(5, 5, 9, 9))
    assert f"categories read as background: 1 ({name!r})" in text


@pytest.mark.parametrize("name", ["ignore", "Ignore", "__ignore__", "void", "255 void", "unlabeled"])
def test_ignore_is_no_class(tmp_path: Path, name: str) -> None:
    names = [{"id": 0, "name": name}, {"id": 1, "name": "cell"}]
    things = [thing(1, 0, box(0, 0, 20, 20)), thing(1, 1, box(5, 5, 9, 9))]
    scenes, text = told(written(tmp_path, things, names=names))
    np.testing.assert_array_equal(scenes[0].labels, np.where(filled(5, 5, 9, 9), 1, 255 * filled(0, 0, 20, 20)))
    assert scenes.categories == ("cell",) and f"categories read as ignored: 1 ({name!r})" in text


@pytest.mark.parametrize("count", [254, 255, 300])
def test_an_image_of_more_categories_than_a_label_map_holds(tmp_path: Path, count: int) -> None:
    names = [{"id": number, "name": f"kind {number}"} for number in range(count)]
    things = [thing(1, number, box(number % 30, 0, number % 30 + 1, 1)) for number in range(count)]
    scenes, text = told(written(tmp_path, [*things, thing(2, 0, box(0, 0, 4, 4))], names=names))
    assert len(scenes) == (2 if count == 254 else 1)
    assert (f"they show more than 254 categories: 1 (0001.png ({count}))" in text) == (count > 254)


# The file as a whole --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"text"', "[" * 100_000, '{"images": {}, "annotations": []}']
)
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_a_file_of_another_kind_is_one_message(tmp_path: Path, text: str, mark: str) -> None:
    root = written(tmp_path, [thing(1, 1, box(1, 1, 5, 5))])
    (root / "annotations/instances.json").write_text(text, encoding=mark)
    with pytest.raises(FusionerError, match=r"can't be read as COCO instances.*copy it again"):
        read_folder(root)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_to_read(tmp_path: Path, coding: str) -> None:
    names = [{"id": 1, "name": "Zelle größer"}]
    root = written(tmp_path, [thing(1, 1, box(2, 3, 9, 11))], names=names)
    file = root / "annotations/instances.json"
    file.write_text(file.read_text(encoding="utf-8"), encoding=coding)
    assert read_folder(root).names(0) == ("Zelle größer",)
    file.write_bytes('{"name": "größer"}'.encode("latin-1"))
    with pytest.raises(FusionerError, match=r"instances\.json is not text in UTF-8 \(line 1, byte 0xf6\): save it as"):
        read_folder(root)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
@pytest.mark.parametrize("odd", [None, 7, "text", [], {}])
def test_an_entry_of_another_kind_leaves_the_rest(tmp_path: Path, part: str, odd: Any) -> None:
    import json

    root = written(tmp_path, [thing(1, 1, box(2, 3, 9, 11)), thing(2, 2, box(0, 0, 4, 4))])
    file = root / "annotations/instances.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content[part].insert(0, odd)
    file.write_text(json.dumps(content), encoding="utf-8")
    scenes, text = told(root)
    assert [scenes.names(index) for index in range(2)] == [("cell",), ("fibre",)]
    np.testing.assert_array_equal(scenes[0].labels, filled(2, 3, 9, 11))
    assert "left out" in text
