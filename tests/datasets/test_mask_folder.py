"""Index masks against the raw files, and made layouts of the published test sets."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.all_classes import class_names, read_set
from fusionerlib.datasets.mask_folder import MaskFolder
from fusionerlib.datasets.pascal import NAMES
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError
from tests.datasets.test_pascal import MINI, SHARED, needs_mini, save_mask, stripes

COCO_MINI = SHARED / "coco-mini"
Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Writes ``images/<key>.jpg`` and ``masks/<key>.png`` for raw masks by key, in two given folders."""

    def make(raws: dict[str, np.ndarray], *, images: str, masks: str) -> Path:
        for folder in (images, masks):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for key, raw in raws.items():
            photo = np.random.default_rng(0).integers(0, 255, (*raw.shape, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / images / f"{key}.jpg")
            save_mask(tmp_path / masks / f"{key}.png", raw)
        return tmp_path

    return make


# The reduced copies ---------------------------------------------------------------------------------------------------


@needs_mini
def test_voc_is_what_a_count_over_the_masks_gives() -> None:
    files = sorted((MINI / "SegmentationClassAug").glob("*.png"))
    scenes = read_set("voc-20", MINI, split=None)
    assert isinstance(scenes, Scenes)
    assert len(scenes) == len(files) == 2476
    rng = np.random.default_rng(0)
    for index in rng.integers(0, len(files), 20).tolist():
        scene, raw = scenes[index], np.asarray(Image.open(files[index]))
        assert scene.key == files[index].stem
        present = sorted(set(np.unique(raw)) - {0, 255})
        assert scene.names == scenes.names(index) == tuple(NAMES[number - 1] for number in present)
        assert np.array_equal(scene.labels == 255, raw == 255)
        for number in present:
            assert np.array_equal(scene.mask(NAMES[number - 1]), raw == number)


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="a reduced copy of COCO is not on this machine")
def test_coco_object_is_every_image_with_objects() -> None:
    import json

    content = json.loads((COCO_MINI / "annotations/instances.json").read_text())
    shown = {row["image_id"] for row in content["annotations"] if not row["iscrowd"]}
    scenes = read_set("coco-object", COCO_MINI)
    assert len(scenes) == len(shown)
    assert {name for index in range(len(scenes)) for name in scenes.names(index)} == set(class_names("coco-object"))


# The published test sets, made ----------------------------------------------------------------------------------------


def test_class_names() -> None:
    sizes = {"ade20k-150": 150, "pascal-context-59": 59, "pascal-context-60": 59, "voc-20": 20, "coco-object": 80}
    for dataset, size in sizes.items():
        assert len(set(class_names(dataset))) == len(class_names(dataset)) == size
        assert all(name == name.strip().lower() for name in class_names(dataset)), dataset
    ade, context = class_names("ade20k-150"), class_names("pascal-context-59")
    assert (ade[0], ade[12], ade[89], ade[149]) == ("wall", "person", "television", "flag")
    assert (context[0], context[36], context[39], context[58]) == ("aeroplane", "person", "potted plant", "wood")
    assert list(context) == sorted(context)
    assert "wine glass" in class_names("coco-object")
    with pytest.raises(FusionerError, match="test set = 'ade20k': expected one of 'ade20k-150', 'pascal-context-59'"):
        class_names("ade20k")


@pytest.mark.parametrize("home", ["ADEChallengeData2016/", ""])
def test_ade20k(made: Made, home: str) -> None:
    for part, raw in (("validation", stripes(0, 13, 150, 1)), ("training", stripes(2, 2))):
        root = made({f"ADE_{part}": raw}, images=f"{home}images/{part}", masks=f"{home}annotations/{part}")
    val, train = read_set("ade20k-150", root), read_set("ade20k-150", root, split="train")
    assert isinstance(val, MaskFolder)
    assert (len(val), len(train), len(val.classes)) == (1, 1, 150)
    assert val[0].names == ("wall", "person", "flag")
    assert np.array_equal(val[0].labels, stripes(255, 2, 3, 1))
    assert train.names(0) == ("building",)
    with pytest.raises(FusionerError, match="split = None of ade20k-150: expected one of train, val"):
        read_set("ade20k-150", root, split=None)


def test_zero_of_pascal_context_is_ignored_or_background(made: Made) -> None:
    raws = {"2008_000002": stripes(0, 37, 59), "2008_000003": stripes(1), "2008_000004": stripes(2)}
    home = "VOCdevkit/VOC2010"
    root = made(raws, images=f"{home}/JPEGImages", masks=f"{home}/SegmentationClassContext")
    lists = root / home / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2008_000004\n2008_000002\n")
    ignored, background = (read_set(f"pascal-context-{classes}", root) for classes in (59, 60))
    assert [ignored[index].key for index in range(len(ignored))] == ["2008_000004", "2008_000002"]
    assert ignored[1].names == background[1].names == ("person", "wood")
    assert np.array_equal(ignored[1].labels, stripes(255, 1, 2))
    assert np.array_equal(background[1].labels, stripes(0, 1, 2))
    assert ignored.fingerprint != background.fingerprint
    assert len(read_set("pascal-context-59", root, split=None)) == 3
    with pytest.raises(FusionerError, match=r"train\.txt is missing, the list of the split 'train'.* split None"):
        read_set("pascal-context-59", root, split="train")
    (lists / "val.txt").write_text("2008_000004\n2008_000009\n2008_000007")
    with pytest.raises(FusionerError, match=r"2 of 3 listed images .* the first is '2008_000009'"):
        read_set("pascal-context-59", root)


def test_names_come_from_the_mask_and_never_from_the_image(made: Made) -> None:
    root = made({"a": stripes(9, 0, 255, 3)}, images="JPEGImages", masks="SegmentationClass")
    for stem in ("a", "never masked"):
        (root / f"JPEGImages/{stem}.jpg").write_bytes(b"no image")
    scenes = read_set("voc-20", root, split=None)
    assert len(scenes) == 1
    assert scenes.names(0) == ("bird", "chair")
    with pytest.raises(FusionerError, match=r"a\.jpg' can't be read"):
        scenes[0]


def test_missing_images_and_masks_are_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"has no images: looked for .*VOC2012/JPEGImages.*point root above"):
        read_set("voc-20", tmp_path / "nowhere", split=None)
    root = made({"a": stripes(1), "b": stripes(1)}, images="images/validation", masks="annotations/validation")
    (root / "annotations/validation/b.png").unlink()
    with pytest.raises(FusionerError, match=r"1 of 2 images have no mask, the first is .*b\.jpg: expected .*b\.png"):
        read_set("ade20k-150", root)
    (root / "annotations/validation/a.png").unlink()
    (root / "annotations/validation").rmdir()
    with pytest.raises(FusionerError, match=r"there are no masks: looked for .*annotations/validation; unpack"):
        read_set("ade20k-150", root)


def test_a_fingerprint_follows_the_files(made: Made) -> None:
    root = made({"a": stripes(1)}, images="images/validation", masks="annotations/validation")
    before = read_set("ade20k-150", root).fingerprint
    assert read_set("ade20k-150", root).fingerprint == before
    made({"a": stripes(1, 2, 3, 4, 5, 6)}, images="images/validation", masks="annotations/validation")
    assert read_set("ade20k-150", root).fingerprint != before


# Masks of every kind --------------------------------------------------------------------------------------------------


def scenes_of(root: Path) -> MaskFolder:
    files = [("a", root / "images/a.jpg", root / "masks/a.png")]
    return MaskFolder(files, classes={1: "cat", 3: "dog"}, ignored=(7,), meaning="names.txt")


@pytest.mark.parametrize("mode", ["P", "L", "I;16", "1"])
def test_indices_of_any_bit_depth_are_read(made: Made, mode: str) -> None:
    raw = stripes(0, 1) if mode == "1" else stripes(0, 1, 3, 7, 255)
    root = made({"a": raw}, images="images", masks="masks")
    if mode != "P":
        types: dict[str, Any] = {"L": np.uint8, "I;16": np.uint16, "1": bool}
        Image.fromarray(raw.astype(types[mode])).save(root / "masks/a.png")
    scene = scenes_of(root)[0]
    assert scene.names == (("cat",) if mode == "1" else ("cat", "dog"))
    assert np.array_equal(scene.labels, stripes(0, 1) if mode == "1" else stripes(0, 1, 2, 255, 255))


def test_bad_masks_are_named_with_a_remedy(made: Made) -> None:
    root = made({"a": stripes(1, 3)}, images="images", masks="masks")
    mask = root / "masks/a.png"
    good = mask.read_bytes()

    def complaint() -> str:
        with pytest.raises(FusionerError) as told:
            scenes_of(root).names(0)
        assert str(mask) in str(told.value)
        return str(told.value)

    for damage in (good[:-30], good[: len(good) // 2], b"", b"no mask"):
        mask.write_bytes(damage)
        assert re.search("can't be read .* copy it again", complaint())
    for colours in ("RGB", "RGBA", "LA"):
        Image.fromarray(stripes(1, 3)).convert(colours).save(mask)
        assert re.search(f"mode '{colours}', colours instead of indices.* replace each colour", complaint())
    Image.fromarray(stripes(1, 2, 3, 9)).save(mask)
    assert "holds 2, 9: not in names.txt, which has 0, 1, 3, 7; give the index a name" in complaint()
    Image.fromarray(stripes(1, 3).astype(np.uint16) * 300).save(mask)
    assert "holds 300, 900" in complaint()


def test_a_mask_of_another_size_is_named_with_both(made: Made) -> None:
    root = made({"a": stripes(1, 3)}, images="images", masks="masks")
    save_mask(root / "masks/a.png", stripes(1, 3, 3))
    with pytest.raises(FusionerError, match=r"a\.png is \(15, 12\) pixels, its image .*a\.jpg \(10, 12\).*export"):
        scenes_of(root)[0]


def test_a_photo_that_lies_on_its_side_fits_a_mask_either_way(made: Made) -> None:
    root = made({"a": stripes(1, 3)}, images="images", masks="masks")
    photo = Image.open(root / "images/a.jpg")
    photo.getexif()[0x0112] = 6  # to be turned a quarter clockwise
    photo.save(root / "images/a.jpg", exif=photo.getexif())
    lying = np.asarray(Image.open(root / "images/a.jpg"))
    assert np.array_equal(scenes_of(root)[0].image, lying)
    save_mask(root / "masks/a.png", np.rot90(stripes(1, 3), -1))
    assert np.array_equal(scenes_of(root)[0].image, np.rot90(lying, -1))
