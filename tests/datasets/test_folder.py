"""A user's own folder: masks with names, lists, and everything that people get wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.folder import read_folder, read_names
from fusionerlib.datasets.mask_folder import MaskFolder
from fusionerlib.datasets.pascal import NAMES
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError, FusionerWarning
from tests.datasets.test_pascal import MINI, needs_mini, save_mask, stripes

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A folder of images and masks by stem, and its names file."""

    def make(raws: dict[str, np.ndarray], *, names: str | None = "cat\ntraffic light\n", suffix: str = ".jpg") -> Path:
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for stem, raw in raws.items():
            Image.new("RGB", raw.shape[::-1], "olive").save(tmp_path / "images" / f"{stem}{suffix}")
            save_mask(tmp_path / "masks" / f"{stem}.png", raw)
        if names is not None:
            (tmp_path / "names.txt").write_text(names, encoding="utf-8")
        return tmp_path

    return make


def keys(scenes: Scenes) -> list[str]:
    return [scenes[index].key for index in range(len(scenes))]


# Masks and names ------------------------------------------------------------------------------------------------------


def test_images_masks_and_names(made: Made) -> None:
    made({"b.2": stripes(2, 0, 255)}, suffix=".PNG")
    root = made({"a": stripes(0, 1), "c": stripes(0)})
    for clutter in (".DS_Store", "._a.jpg"):
        (root / "images" / clutter).touch()
    (root / "images/Thumbs.db").touch()
    scenes = read_folder(root)
    assert isinstance(scenes, MaskFolder)
    assert isinstance(scenes, Scenes)
    assert scenes.classes == ("cat", "traffic light")
    assert keys(scenes) == ["a", "b.2", "c"]
    assert [scenes.names(index) for index in range(3)] == [("cat",), ("traffic light",), ()]
    assert np.array_equal(scenes[1].labels, stripes(1, 0, 255))
    assert scenes[0].image.shape == (12, 10, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat\ndog", {1: "cat", 2: "dog"}),
        ("\ufeffcat\r\n\r\n dog \r\n\r\n", {1: "cat", 3: "dog"}),
        (
            "0 background\n1 cat\n7 wine glass\n255 ignore\n",
            {0: "background", 1: "cat", 7: "wine glass", 255: "ignore"},
        ),
        ("3: cat\n0: sky", {3: "cat", 0: "sky"}),
        ("2,dog\n1, cat", {2: "dog", 1: "cat"}),
        ("7 up\ncoke", {1: "7 up", 2: "coke"}),
        ("f1 car\n747", {1: "f1 car", 2: "747"}),
    ],
)
def test_names_by_line_or_by_index(tmp_path: Path, text: str, expected: dict[int, str]) -> None:
    (tmp_path / "names.txt").write_bytes(text.encode())
    assert read_names(tmp_path / "names.txt") == expected


def test_zero_may_be_a_class_and_others_ignored(made: Made) -> None:
    root = made({"a": stripes(0, 4, 9, 255)}, names="0 sky\n4 ignore\n9 background\n")
    scene = read_folder(root)[0]
    assert scene.names == ("sky",)
    assert np.array_equal(scene.labels, stripes(1, 255, 0, 255))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("background\ncat\n", "would be index 1: 0 is background already, so delete the line"),
        ("1 cat\n1 dog\n", "has the index 1 twice"),
        ("1 cat\n2 cat\n", "has the name 'cat' twice"),
        ("1 cat\n2 dog\n3 Cats\n", "'cat' and 'Cats', which are one name to a text encoder"),
        ("", "names 0 classes, the highest index is None: expected at least one"),
        ("0 background\n255 ignore\n", "names 0 classes"),
        ("1 cat\n255 dog\n", "the highest index is 255: .* up to 254"),
    ],
)
def test_bad_names_are_named(made: Made, text: str, complaint: str) -> None:
    root = made({"a": stripes(1)}, names=text)
    with pytest.raises(FusionerError, match=f"names.txt .*{complaint}"):
        read_folder(root)


def test_what_is_wrong_with_images_and_masks_is_told(made: Made) -> None:
    root = made({"a": stripes(1), "b": stripes(2), "c": stripes(3)}, names=None)

    def complaint(ask: Callable[[], object] = lambda: read_folder(root)) -> str:
        with pytest.raises(FusionerError) as told:
            ask()
        return str(told.value)

    assert re.search("names.txt is missing: write one name a line", complaint())
    made({}, names="cat\ndog\n")
    assert f"holds 3: not in {root / 'names.txt'}, which has 0 to 2; give the index a name" in complaint()
    made({}, names="cat\ndog\nsheep")
    save_mask(root / "masks/a.png", stripes(1, 1, 1))
    assert re.search(r"a\.png is \(15, 12\) .*a\.jpg \(5, 12\)", complaint(lambda: read_folder(root)[0]))
    Image.new("RGB", (5, 12), "red").save(root / "masks/a.png")
    assert re.search("colours instead of indices.*replace each colour by its index", complaint())
    (root / "masks/b.png").unlink()
    assert re.search(r"1 of 3 images have no mask, the first is .*images.b\.jpg", complaint())
    (root / "images/a.png").touch()
    assert re.search(r"a\.jpg and a\.png would share one mask: rename", complaint())
    for file in (root / "images").iterdir():
        file.unlink()
    assert re.search(r"images holds no image: expected files that end in \.jpg", complaint())
    (root / "images").rmdir()
    assert re.search("images is no folder", complaint())


def test_black_and_white_masks_are_refused(made: Made) -> None:
    """As many tools write one object's mask; taken as they are, every pixel of the object would be ignored."""
    root = made({"a": stripes(0, 255), "b": stripes(0)}, names="cat")
    with pytest.raises(FusionerError, match=r"hold 0 and 255 alone .*: save the object's white pixels as its index in"):
        read_folder(root)
    made({}, names="1 cat\n255 ignore")
    assert np.array_equal(read_folder(root)[0].labels, stripes(0, 255))
    made({"b": stripes(0, 1)}, names="cat")
    assert len(read_folder(root)) == 2


# Splits ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eleven(made: Made) -> Path:
    return made({f"i{number:02d}": stripes(1) for number in range(11)})


def test_without_lists_every_fifth_image_validates(eleven: Path) -> None:
    train, val = read_folder(eleven, split="train"), read_folder(eleven, split="val")
    assert keys(val) == ["i00", "i05", "i10"]
    assert sorted(keys(train) + keys(val)) == keys(read_folder(eleven))
    assert len({scenes.fingerprint for scenes in (train, val, read_folder(eleven))}) == 3


def test_one_picture_alone_trains_and_validates_and_that_is_told(made: Made) -> None:
    root = made({"only": stripes(1)})
    for split in ("train", "val"):
        with pytest.warns(FusionerWarning, match=r"has one picture, which both trains and validates"):
            assert keys(read_folder(root, split=split)) == ["only"]


def test_lists_divide_and_one_list_leaves_the_rest(eleven: Path) -> None:
    (eleven / "val.txt").write_text("i07.jpg\n\ni02\n", encoding="utf-8")
    assert keys(read_folder(eleven, split="val")) == ["i07", "i02"]
    assert set(keys(read_folder(eleven, split="train"))) == {f"i{n:02d}" for n in range(11)} - {"i02", "i07"}
    (eleven / "train.txt").write_text("i03")
    assert keys(read_folder(eleven, split="train")) == ["i03"]
    assert len(read_folder(eleven)) == 11


def test_bad_lists_are_named(eleven: Path) -> None:
    (eleven / "val.txt").write_text("i02\ni99\n")
    with pytest.raises(FusionerError, match=r"1 images of val\.txt are not in .*images, 'i99' first"):
        read_folder(eleven, split="train")
    (eleven / "val.txt").write_text("i02\ni03\n")
    (eleven / "train.txt").write_text("i03\ni04\n")
    with pytest.raises(FusionerError, match=r"'i03' is in both train\.txt and val\.txt"):
        read_folder(eleven, split="val")
    (eleven / "train.txt").write_text("\n")
    with pytest.raises(FusionerError, match=r"split 'train' of .* has no image: list some in train\.txt"):
        read_folder(eleven, split="train")


# A reduced copy as somebody's folder ----------------------------------------------------------------------------------


@needs_mini
def test_voc_as_a_folder_gives_the_masks_it_holds(tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(MINI / "VOCdevkit/VOC2012/JPEGImages")
    (tmp_path / "masks").symlink_to(MINI / "SegmentationClassAug")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    scenes = read_folder(tmp_path)
    assert len(scenes) == len(list((MINI / "SegmentationClassAug").iterdir())) == 2476
    for index in np.random.default_rng(1).integers(0, len(scenes), 20).tolist():
        scene = scenes[index]
        raw = np.asarray(Image.open(MINI / "SegmentationClassAug" / f"{scene.key}.png"))
        table = np.array([0, *(NAMES.index(name) + 1 for name in scene.names)] + [0] * 255, dtype=np.uint8)
        table[255] = 255
        assert np.array_equal(table[scene.labels], raw)
