"""Every layout and spelling in which pictures come: all of them are found, or what is not is counted and named."""

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusionerlib import FusionerError, read_folder
from fusionerlib.datasets.formats.pictures import Pictures
from tests.faults.coco_files import HEIGHT, WIDTH, box, filled, thing
from tests.faults.test_coco_shapes import told


def picture(file: Path, shade: int = 100) -> Path:
    """A grey picture, known again by its shade; its format follows the suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if file.suffix.lower() == ".png" else "JPEG"
    Image.new("RGB", (WIDTH, HEIGHT), (shade, shade, shade)).save(file, kind, quality=100)
    return file


def coco(file: Path, listed: list[str], start: int = 1) -> Path:
    """A COCO file of pictures by these names; the n-th shows a cell n + 1 pixels wide."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(listed, start)]
    things = [{"id": n, **thing(n, 1, box(0, 0, n + 1, HEIGHT))} for n in range(start, start + len(listed))]
    content = {"images": rows, "annotations": things, "categories": [{"id": 1, "name": "cell"}]}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def read(root: Path, **options: Any) -> list[tuple[int, int]]:
    """The shade of each picture, and how wide its cell is."""
    scenes, text = told(root, **options)
    assert text == ""
    return [
        (int(scene.image[0, 0, 0]), int(scene.labels[0].sum())) for scene in map(scenes.__getitem__, range(len(scenes)))
    ]


# Layouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("images", "annotations/instances_default.json"),  # CVAT
        ("images/default", "annotations/instances_default.json"),  # CVAT, a later version
        ("images/train2017", "annotations/instances_train2017.json"),
        ("train2017", "annotations/instances_train2017.json"),
        ("images", "result.json"),  # Label Studio
        ("images", "images/_annotations.coco.json"),
        ("data", "labels.json"),  # FiftyOne
        (".", "_annotations.coco.json"),  # Roboflow
        ("photos/of/today", "annotations.json"),
        ("images/2024/may", "annotations/instances.json"),
        ("JPEGImages", "annotations.json"),
        ("images", "annotations/Instances.JSON"),
        ("imgs", "coco.json"),
    ],
)
def test_one_file_for_all(tmp_path: Path, folder: str, file: str) -> None:
    for number in range(6):
        picture(tmp_path / folder / f"{number}.png", 10 * number)
    coco(tmp_path / file, [f"{number}.png" for number in range(6)])
    assert read(tmp_path) == [(10 * number, number + 2) for number in range(6)]
    if "train" not in file:
        assert len(read(tmp_path, split="train")) + len(read(tmp_path, split="val")) == 6


@pytest.mark.parametrize(
    ("train", "val", "other"),
    [
        ("train/{}", "valid/{}", "test/{}"),  # Roboflow
        ("train/{}", "val/{}", "test/{}"),
        ("train/images/{}", "val/images/{}", "test/images/{}"),
        ("images/train/{}", "images/val/{}", "images/test/{}"),
        ("images/train2017/{}", "images/val2017/{}", "images/test/{}"),
        ("train2017/{}", "val2017/{}", "test/{}"),
        ("Images/train/{}", "Images/val/{}", "Images/test/{}"),
    ],
)
@pytest.mark.parametrize("json_at", ["beside", "annotations"])
def test_a_file_for_each_split(tmp_path: Path, train: str, val: str, other: str, json_at: str) -> None:
    """Pictures of one name in every split: each file means those of its own."""
    for shade, places in ((10, train), (20, val), (30, other)):
        for number in range(2):
            picture(tmp_path / places.format(f"{number}.png"), shade + number)
        part = places.partition("{")[0].strip("/").split("/")
        word = next(word for word in part if word.lower() != "images")
        home = Path(*part[: part.index(word) + 1])
        file = home / "_annotations.coco.json" if json_at == "beside" else Path(f"annotations/instances_{word}.json")
        coco(tmp_path / file, ["0.png", "1.png"])
    assert read(tmp_path, split="train") == [(10, 2), (11, 3)]
    assert read(tmp_path, split="val") == [(20, 2), (21, 3)]
    assert read(tmp_path) == [(10, 2), (11, 3), (20, 2), (21, 3), (30, 2), (31, 3)]
    scenes = read_folder(tmp_path)
    assert len({scenes[index].key for index in range(6)}) == 6


def test_a_test_split_validates_where_there_is_no_other(tmp_path: Path) -> None:
    for shade, part in ((10, "train"), (20, "test")):
        picture(tmp_path / part / "a.png", shade)
        coco(tmp_path / part / "_annotations.coco.json", ["a.png"])
    assert read(tmp_path, split="val") == [(20, 2)]
    with pytest.raises(FusionerError, match=r"nothing for the split 'val': expected instances_val\.json beside it"):
        (tmp_path / "test/_annotations.coco.json").unlink()
        read_folder(tmp_path, split="val")


def masked(root: Path, key: str, width: int, shade: int, *, images: str = "images", masks: str = "masks") -> None:
    picture(root / images / f"{key}.png", shade)
    (root / masks / key).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(filled(0, 0, width, HEIGHT).astype(np.uint8)).save(root / masks / f"{key}.png")


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("images/train", "masks/train"),
        ("JPEGImages", "SegmentationClass"),
        ("images/a/b", "masks/a/b"),
    ],
)
def test_masks_mirror_the_folders_of_the_pictures(tmp_path: Path, images: str, masks: str) -> None:
    for number in range(6):
        masked(tmp_path, f"{number}", number + 2, 10 * number, images=images, masks=masks)
    masked(tmp_path, "zz", 29, 99, images=images.split("/")[0], masks=masks.split("/")[0])
    (tmp_path / "names.txt").write_text("cell\n")
    assert read(tmp_path) == [*((10 * number, number + 2) for number in range(6)), (99, 29)]


@pytest.mark.parametrize("inside", [False, True])
def test_masks_in_a_folder_for_each_split(tmp_path: Path, inside: bool) -> None:
    for part, shade in (("train", 10), ("valid", 20)):
        home = tmp_path / part if inside else tmp_path
        names = ("images", "masks") if inside else (f"images/{part}", f"masks/{part}")
        for number in range(3):
            masked(home, str(number), number + 2, shade + number, images=names[0], masks=names[1])
    (tmp_path / "names.txt").write_text("cell\n")
    assert read(tmp_path, split="train") == [(10, 2), (11, 3), (12, 4)]
    assert read(tmp_path, split="val") == [(20, 2), (21, 3), (22, 4)]
    assert len(read(tmp_path)) == 6


# Spellings ------------------------------------------------------------------------------------------------------------

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: name,
    "with its folder": lambda name: f"images/{name}",
    "with more folders": lambda name: f"data/2024/images/{name}",
    "from here": lambda name: f"./{name}",
    "backslash": lambda name: f"images\\{name}",
    "of Windows": lambda name: f"C:\\Users\\me\\images\\{name}",
    "absolute": lambda name: f"/home/me/data/{name}",
    "from the annotations": lambda name: f"../images/{name}",
    "up and down": lambda name: f"x/../{name}",
    "a URL": lambda name: f"https://example.org/data/upload/{name.replace(' ', '%20')}?d=1#top",
    "a URL of a file": lambda name: f"file:///home/me/{name.replace(' ', '%20')}",
    "quoted": lambda name: name.replace(" ", "%20").replace("ü", "%C3%BC"),
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "composed": lambda name: unicodedata.normalize("NFC", name),
    "capitals at the end": lambda name: name.replace(".jpg", ".JPG"),
    "capitals": lambda name: name.upper(),
    "another suffix": lambda name: name.replace(".jpg", ".jpeg"),
    "a png": lambda name: name.replace(".jpg", ".png"),
    "no suffix": lambda name: name.removesuffix(".jpg"),
    "spaces around": lambda name: f" {name} ",
    "of Label Studio": lambda name: f"/data/local-files/?d=photos/{quote(name)}",
    "of Label Studio's server": lambda name: f"http://localhost:8080/data/local-files/?d=photos%2F{quote(name)}",
    "with a token": lambda name: f"files/{name}?token=x/y.jpg",
    "quoted twice": lambda name: quote(quote(name)),
    "with plus for spaces": lambda name: f"https://example.org/{quote_plus(name)}",
    "of a drive": lambda name: f"D:{name}",
    "a mark before it": lambda name: f"\ufeff{name}",
    "spaces that do not break": lambda name: name.replace(" ", "\u00a0"),
    "of a server of Windows": lambda name: f"\\\\server\\share\\{name}",
    "3000 folders": lambda name: "x/" * 3000 + name,
}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_a_name_finds_its_picture(tmp_path: Path, spelling: Callable[[str], str], form: Any) -> None:
    names = ["Tür 1.jpg", "b.2.jpg", "100% c.jpg"]
    for number, name in enumerate(names):
        picture(tmp_path / "images" / unicodedata.normalize(form, name), 50 + number)
    coco(tmp_path / "annotations/instances.json", [spelling(name) for name in names])
    assert read(tmp_path) == [(50, 2), (51, 3), (52, 4)]
    lines = [spelling(name) for name in names]
    (tmp_path / "val.txt").write_text("\n".join(lines[:2]), encoding="utf-8")
    assert read(tmp_path, split="val") == [(50, 2), (51, 3)]


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".jfif", ".JFIF", ".jpe", ".png", ".PNG"])
def test_every_suffix_of_a_picture_is_one(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / f"images/a{suffix}", 50)
    picture(tmp_path / "images/old.jpg/b.png", 60)  # a folder named as a picture is
    coco(tmp_path / "annotations/instances.json", [f"a{suffix}", "old.jpg/b.png"])
    assert read(tmp_path) == [(50, 2), (60, 3)]


@pytest.mark.parametrize("name", ["a%20b.png", "a+b.png", "a#1.png", "a?d=1.png", "100%.png", "a (1).png", "D:a.png"])
def test_a_name_with_marks_of_a_url_is_itself_first(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "images" / name, 50)
    for other in {"a b.png", "a.png", "1.png"}:
        picture(tmp_path / "images" / other, 90)
    coco(tmp_path / "annotations/instances.json", [name, "a b.png", "a.png", "1.png"])
    assert (50, 2) in read(tmp_path)


part = st.sampled_from(["a", "b", "images", "train", "Ä", "x y", "..", "."])


@given(
    there=st.lists(st.lists(part.filter(lambda p: p not in ".."), min_size=1, max_size=3), min_size=1, max_size=5),
    asked=st.lists(part, min_size=1, max_size=5),
    windows=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_name_means_a_file_at_the_end_of_its_path_or_none(
    tmp_path_factory: pytest.TempPathFactory, there: list[list[str]], asked: list[str], windows: bool
) -> None:
    """Whatever is found lies inside, and one of the two paths, read without ``..``, is the end of the other."""
    root = tmp_path_factory.mktemp("any")
    for parts in there:
        file = root.joinpath("inside", *parts[:-1], f"{parts[-1]}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (root / "a.png").touch()
    pictures = Pictures(root / "inside")
    plain: list[str] = []
    for step in asked:
        plain = plain[:-1] if step == ".." else plain if step == "." else [*plain, step]
    found = pictures.find(("\\" if windows else "/").join(asked) + ".png") if plain and asked[-1] not in ".." else []
    ends = []
    for file in pictures.files:
        parts = list(file.relative_to(root / "inside").with_suffix("").parts)
        short = min(len(parts), len(plain))
        if short and parts[-short:] == plain[-short:]:
            ends.append(file)
    assert set(found) <= set(ends)
    if len(ends) == 1 and asked[-1] not in "..":
        assert found == ends


def raw(root: Path, file: str, width: int) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(filled(0, 0, width, HEIGHT).astype(np.uint8)).save(root / file)


def test_masks_beside_their_pictures_as_roboflow_writes_them(tmp_path: Path) -> None:
    for part, shade in (("train", 10), ("valid", 20)):
        for number in range(3):
            picture(tmp_path / part / f"{number}_jpg.rf.0a.jpg", shade + number)
            raw(tmp_path / part, f"{number}_jpg.rf.0a_mask.png", number + 2)
        (tmp_path / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n")
    assert read(tmp_path, split="train") == [(10, 2), (11, 3), (12, 4)]
    assert read(tmp_path, split="val") == [(20, 2), (21, 3), (22, 4)]
    (tmp_path / "train/1_jpg.rf.0a_mask.png").unlink()
    with pytest.raises(FusionerError, match=r"1 of 3 images have no mask.*expected .*train/1_jpg\.rf\.0a_mask\.png"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("lists", "train", "val"),
    [
        ({"val": "ab", "test": "cd"}, "ef", "ab"),  # what is tested is not trained
        ({"train": "ab", "test": "cd"}, "ab", "cd"),
        ({"train": "ab", "valid": "cd"}, "ab", "cd"),
        ({"Train": "bc", "VAL": "d"}, "bc", "d"),
        ({"ImageSets/Segmentation/train": "ab", "ImageSets/Segmentation/val": "cd"}, "ab", "cd"),
        ({"test": "ab"}, "cdef", "ab"),
    ],
)
def test_every_list_of_a_split_counts(tmp_path: Path, lists: dict[str, str], train: str, val: str) -> None:
    for number, key in enumerate("abcdef"):
        masked(tmp_path, key, number + 2, 10 * number)
    (tmp_path / "names.txt").write_text("cell\n")
    for name, keys in lists.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.txt").write_text("\n".join(keys))
    for split, keys in (("train", train), ("val", val)):
        assert read(tmp_path, split=split) == [(10 * "abcdef".index(key), "abcdef".index(key) + 2) for key in keys]


def test_a_data_set_one_folder_further_down_is_named(tmp_path: Path) -> None:
    masked(tmp_path / "export", "a", 4, 50)
    (tmp_path / "export/names.txt").write_text("cell\n")
    with pytest.raises(
        FusionerError, match=r"neither masks nor a COCO file.*; .*/export has them, so give that folder"
    ):
        read_folder(tmp_path)


def test_a_coco_file_that_is_not_read_is_told(tmp_path: Path) -> None:
    masked(tmp_path, "a", 4, 50)
    (tmp_path / "names.txt").write_text("cell\n")
    coco(tmp_path / "annotations/instances.json", ["a.png"])
    scenes, text = told(tmp_path)
    assert scenes[0].labels[0].sum() == 4 and "COCO files not read, as there are masks: 1 (instances.json)" in text


def test_links_and_thumbnails_hide_nothing(tmp_path: Path) -> None:
    """A link that sorts before the folder that it leads to, one that leads back, and a drive's previews."""
    picture(tmp_path / "images/z/a.png", 50)
    (tmp_path / "images/b").mkdir()
    (tmp_path / "images/b/link").symlink_to("../z")
    (tmp_path / "images/c").symlink_to("..")
    picture(tmp_path / "images/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", 99)
    coco(tmp_path / "annotations/instances.json", ["z/a.png"])
    assert read(tmp_path) == [(50, 2)] and Pictures(tmp_path / "images").files == [tmp_path / "images/z/a.png"]


# What is not found ----------------------------------------------------------------------------------------------------


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    picture(root / "images/b.png", 50)
    secret = picture(tmp_path / "secret/a.png", 99)
    names = ["../../secret/a.png", str(secret), f"file://{secret}", "..\\..\\secret\\a.png", "b.png"]
    coco(root / "annotations/instances.json", names)
    scenes, text = told(root)
    assert len(scenes) == 1 and scenes[0].image[0, 0, 0] == 50
    assert (
        f"their pictures are not in {root / 'images'}: 4 (../../secret/a.png; {secret}; file://{secret}; ...)" in text
    )


def test_five_of_six_that_are_not_there_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.png")
    coco(tmp_path / "annotations/instances.json", [f"{number}.png" for number in range(6)])
    _, text = told(tmp_path)
    assert f"images left out, their pictures are not in {tmp_path / 'images'}: 5 (1.png; 2.png; 3.png; ...)" in text
    with pytest.raises(FusionerError, match=r"not in .*images: 5 \(1\.png; 2\.png; 3\.png; \.\.\.\)"):
        read_folder(tmp_path, strict=True)
    (tmp_path / "images/0.png").rename(tmp_path / "images/9.png")
    with pytest.raises(FusionerError, match=r"holds none of the 6 images .*: 6 \(0\.png; 1\.png"):
        read_folder(tmp_path)


def test_a_stray_picture_beside_subfolders_hides_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "images/stray.png", 99)
    for number in range(5):
        picture(tmp_path / f"images/{number % 2}/{number}.png", 10 * number)
    coco(tmp_path / "annotations/instances.json", [f"{number}.png" for number in range(5)])
    scenes, text = told(tmp_path)
    assert [int(scenes[index].image[0, 0, 0]) for index in range(len(scenes))] == [0, 10, 20, 30, 40]
    assert "left out, instances.json does not list them: 1 (stray.png)" in text


def test_a_picture_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    picture(tmp_path / "images/val/0001.png", 99)
    picture(tmp_path / "images/train/0002.png", 10)
    coco(tmp_path / "annotations/instances.json", ["train/0001.png", "train/0002.png"])
    scenes, text = told(tmp_path)
    assert len(scenes) == 1 and "are not in" in text and "1 (train/0001.png)" in text


def test_two_pictures_of_one_name_are_told_apart_or_left_out(tmp_path: Path) -> None:
    for shade, folder in ((10, "left"), (20, "right")):
        picture(tmp_path / "images" / folder / "a.png", shade)
    picture(tmp_path / "images/b.png", 30)
    coco(tmp_path / "annotations/instances.json", ["left/a.png", "a.png", "right\\a.png", "b.png"])
    scenes, text = told(tmp_path)
    assert [int(scenes[index].image[0, 0, 0]) for index in range(3)] == [10, 20, 30]
    assert "several pictures have their name: 1 (a.png (left/a.png, right/a.png))" in text


def lfs(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def broken_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(".git/annex/objects/none.png")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lfs, "a pointer: run `git lfs pull`"),
        (lambda file: file.write_text("/annex/objects/MD5E-s1--2.png\n"), "a pointer: run `git annex get`"),
        (lambda file: file.write_bytes(b""), "an empty file"),
        (broken_link, "a link to nothing"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "no regular file"),
        (lambda file: (file.unlink(), file.symlink_to("/dev/zero")), "no regular file"),
    ],
)
def test_a_file_whose_content_is_elsewhere_is_told(tmp_path: Path, damage: Callable[[Path], Any], why: str) -> None:
    for form in ("coco", "masks"):
        root = tmp_path / form
        for number in range(3):
            masked(root, str(number), number + 2, 10 * number)
        (root / "names.txt").write_text("cell\n")
        if form == "coco":
            coco(root / "annotations/instances.json", ["0.png", "1.png", "2.png"])
            (root / "masks").rename(root / "SegmentationObject")
        damage(root / "images/1.png")
        scenes, text = told(root)
        assert [int(scenes[index].image[0, 0, 0]) for index in range(len(scenes))] == [0, 20]
        assert f"is not here: 1 (1.png{',' if form == 'masks' else ' ('}" in text and why in text
    damage(tmp_path / "masks/masks/2.png")
    assert len(told(tmp_path / "masks")[0]) == 1


def test_masks_without_a_picture_are_told(tmp_path: Path) -> None:
    for number in range(3):
        masked(tmp_path, str(number), number + 2, 10 * number)
    (tmp_path / "images/1.png").unlink()
    (tmp_path / "names.txt").write_text("cell\n")
    assert f"masks left out, they have no picture in {tmp_path / 'images'}: 1 (1)" in told(tmp_path)[1]


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w"):
        pass
    with pytest.raises(FusionerError, match=r"mine\.zip is a file: give a folder"):
        read_folder(tmp_path / "mine.zip")
    with pytest.raises(FusionerError, match="nowhere does not exist: give a folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(FusionerError, match="images is no folder: expected files that end in"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (unicodedata.normalize("NFD", "Tür"), unicodedata.normalize("NFC", "Tür")),
        (unicodedata.normalize("NFC", "Tür"), unicodedata.normalize("NFD", "Tür")),
        ("IMG_1", "img_1"),
        ("sub/IMG_1", "Sub/img_1"),
    ],
)
def test_a_mask_in_another_spelling_is_found(tmp_path: Path, image: str, mask: str) -> None:
    masked(tmp_path, image, 4, 50)
    masked(tmp_path, "other", 9, 60)
    written = tmp_path / f"masks/{mask}.png"
    written.parent.mkdir(exist_ok=True)
    (tmp_path / f"masks/{image}.png").rename(written)
    (tmp_path / "names.txt").write_text("cell\n")
    assert sorted(read(tmp_path)) == [(50, 4), (60, 9)]
    masked(tmp_path, "a", 5, 70)
    Image.open(tmp_path / "masks/a.png").convert("L").save(tmp_path / "masks/a.jpg")
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(FusionerError, match=r"1 masks are JPEG files, .*a\.jpg first, .*export PNG files"):
        read_folder(tmp_path)


def test_the_files_of_the_splits_are_known_in_any_case(tmp_path: Path) -> None:
    for shade, part in ((10, "Train"), (20, "VAL")):
        picture(tmp_path / f"images/{shade}.png", shade)
        coco(tmp_path / f"annotations/instances_{part}.json", [f"{shade}.png"])
    assert (read(tmp_path, split="train"), read(tmp_path, split="val")) == ([(10, 2)], [(20, 2)])


def test_an_empty_mask_folder_does_not_hide_a_coco_file(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png", 50)
    (tmp_path / "masks").mkdir()
    coco(tmp_path / "result.json", ["a.png"])
    assert read(tmp_path) == [(50, 2)]
    (tmp_path / "names.txt").write_text("cell")
    with pytest.raises(FusionerError, match="1 of 1 images have no mask"):
        read_folder(tmp_path)
