"""PASCAL-5i on a made layout with every kind of damage."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.pascal import Pascal5i, training_images, validation_pairs
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.errors import FusionerError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"
MINI = SHARED / "voc-mini"
SPLITS = ROOT / "fusionerlib/datasets/splits"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="a reduced copy of VOC 2012 is not on this machine")

# Two images of the validation list of fold 1 (a chair; a cow), and two training images.
VAL, OTHER_VAL, DOG, BOTH = "2007_000452", "2007_000464", "2007_000720", "2007_000170"
Pixels = np.ndarray
Made = Callable[..., Path]


def save_mask(file: Path, raw: Pixels) -> None:
    """An index PNG with VOC's palette for the first colours, so that a detour over RGB would show."""
    image = Image.fromarray(raw.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [7, 77, 177] * 252)
    image.save(file)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A VOC folder with ``masks`` by image name, in any of the layouts."""

    def make(masks: dict[str, Pixels], *, images: str = "VOCdevkit/VOC2012", aug: str = "VOCdevkit/VOC2012") -> Path:
        for folder in (tmp_path / images / "JPEGImages", tmp_path / aug / "SegmentationClassAug"):
            folder.mkdir(parents=True, exist_ok=True)
        for key, raw in masks.items():
            photo = np.random.default_rng(0).integers(0, 255, (*raw.shape, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / images / "JPEGImages" / f"{key}.jpg")
            save_mask(tmp_path / aug / "SegmentationClassAug" / f"{key}.png", raw)
        return tmp_path

    return make


def stripes(*ids: int, height: int = 12, width: int = 5) -> Pixels:
    """A raw mask of one vertical stripe for each of ``ids``."""
    return np.repeat(np.tile(np.array(ids, dtype=np.uint8), (height, 1)), width, axis=1)


@pytest.mark.parametrize("images", ["VOCdevkit/VOC2012", "VOC2012", "."])
@pytest.mark.parametrize("beside", [True, False])
def test_every_layout_is_found(made: Made, images: str, beside: bool) -> None:
    root = made({VAL: stripes(0, 9, 255), OTHER_VAL: stripes(10, 0)}, images=images, aug=images if beside else ".")
    scenes = Pascal5i(root, fold=1, split="val")
    assert isinstance(scenes, Scenes)
    assert [scenes[index].key for index in range(len(scenes))] == [VAL, OTHER_VAL]
    assert scenes.pairs == [(0, "chair"), (1, "cow")]
    assert scenes.missing == len({image for image, _ in validation_pairs(1)}) - 2
    assert np.array_equal(scenes[0].labels, stripes(0, 1, 255))
    assert scenes[0].image.shape == (12, 15, 3)


def test_labels_of_a_hand_made_mask(made: Made) -> None:
    root = made({BOTH: stripes(0, 5, 15, 1, 255), VAL: stripes(9, 6, 15, 255)})

    def scene_of(key: str, **settings: object) -> Scene:
        scenes = Pascal5i(root, **settings)  # type: ignore[arg-type]
        return next(scene for scene in map(scenes.__getitem__, range(len(scenes))) if scene.key == key)

    # Fold 3 holds out none of them: the names are the classes in the mask, in class order.
    scene = scene_of(BOTH, fold=3, split="train")
    assert scene.names == ("aeroplane", "bottle", "person")
    assert np.array_equal(scene.labels, stripes(0, 2, 3, 1, 255))
    # Fold 0 holds out bottle and aeroplane, fold 2 person.
    assert np.array_equal(scene_of(BOTH, fold=0, split="train").labels, stripes(0, 0, 1, 0, 255))
    assert np.array_equal(scene_of(BOTH, fold=0, split="train", novel="ignore").labels, stripes(0, 255, 1, 255, 255))
    assert np.array_equal(scene_of(BOTH, fold=2, split="train", novel="ignore").labels, stripes(0, 2, 255, 1, 255))
    # Validation asks for what the list names alone: the bus (6) is in the mask but not in the list.
    for novel in ("background", "ignore"):
        scene = scene_of(VAL, fold=1, split="val", novel=novel)
        assert scene.names == ("chair",)
        assert np.array_equal(scene.labels, stripes(1, 0, 0, 255))


def test_a_partial_copy_is_used_and_counted(made: Made) -> None:
    root = made({BOTH: stripes(5, 15), DOG: stripes(12)})
    scenes = Pascal5i(root, fold=3, split="train")
    assert [scenes.names(index) for index in range(2)] == [("bottle", "person"), ("dog",)]
    # By class, then by image.
    assert scenes.pairs == [(0, "bottle"), (1, "dog"), (0, "person")]
    assert scenes.missing == 10582 - 2


def test_training_names_are_the_classes_in_the_mask_and_follow_the_file(made: Made) -> None:
    root = made({BOTH: stripes(5, 15), DOG: stripes(12, 0, 255)})
    assert Pascal5i(root, fold=2, split="train").pairs == [(0, "bottle")]
    assert Pascal5i(root, fold=0, split="train").pairs == [(0, "dog"), (1, "person")]
    mask = root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{DOG}.png"
    save_mask(mask, stripes(20, 0))
    os.utime(mask, (1, 1))
    assert Pascal5i(root, fold=0, split="train").pairs == [(0, "person"), (1, "tv monitor")]
    save_mask(mask, stripes(12, 21))
    os.utime(mask, (2, 2))
    with pytest.raises(FusionerError, match=f"{DOG}.png holds 21"):
        Pascal5i(root, fold=0, split="train")
    (root / f"VOCdevkit/VOC2012/JPEGImages/{BOTH}.jpg").unlink()
    save_mask(mask, stripes(12, 0))
    os.utime(mask, (3, 3))
    with pytest.raises(FusionerError, match=r"none of the 1 images .* shows a class that trains on fold 2"):
        Pascal5i(root, fold=2, split="train")


def test_names_of_a_validation_scene_come_from_the_list_alone(made: Made) -> None:
    root = made({VAL: stripes(9)})
    (root / "VOCdevkit/VOC2012/JPEGImages" / f"{VAL}.jpg").write_bytes(b"no image")
    assert Pascal5i(root, fold=1, split="val").names(0) == ("chair",)


def test_a_fingerprint_follows_files_fold_split_and_novel(made: Made) -> None:
    root = made({VAL: stripes(9), BOTH: stripes(5, 15)})

    def prints() -> list[str]:
        settings: list[dict[str, object]] = [
            {"fold": 1, "split": "val"},
            {"fold": 3, "split": "train"},
            {"fold": 1, "split": "train"},
            {"fold": 1, "split": "train", "novel": "ignore"},
        ]
        return [Pascal5i(root, **each).fingerprint for each in settings]  # type: ignore[arg-type]

    before = prints()
    assert len(set(before)) == 4
    assert prints() == before
    save_mask(root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{VAL}.png", stripes(9, 0, 9, 255, 0, 1, 2))
    after = prints()
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_a_root_without_listed_images_is_told_what_was_looked_for(made: Made, tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match="VOCdevkit") as told:
        Pascal5i(tmp_path / "nowhere", fold=1, split="val")
    assert str(tmp_path / "nowhere") in str(told.value)
    assert "JPEGImages" in str(told.value)
    root = made({VAL: stripes(9)})
    with pytest.raises(FusionerError, match="none of the"):
        Pascal5i(root, fold=1, split="train")


def test_missing_masks_are_named(made: Made) -> None:
    root = made({VAL: stripes(9)})
    folder = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    (folder / f"{VAL}.png").unlink()
    with pytest.raises(FusionerError, match=f"no mask .*{VAL}.png"):
        Pascal5i(root, fold=1, split="val")
    folder.rmdir()
    with pytest.raises(FusionerError, match="unpack SegmentationClassAug"):
        Pascal5i(root, fold=1, split="val")


def test_damaged_files_are_named_with_a_remedy(made: Made) -> None:
    root = made({VAL: stripes(9, 0)})
    photo = root / "VOCdevkit/VOC2012/JPEGImages" / f"{VAL}.jpg"
    mask = root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{VAL}.png"
    good_photo, good_mask = photo.read_bytes(), mask.read_bytes()

    def complaint() -> str:
        with pytest.raises(FusionerError) as told:
            Pascal5i(root, fold=1, split="val")[0]
        return str(told.value)

    for damage in (good_photo[: len(good_photo) // 2], b"", b"<html>404</html>"):
        photo.write_bytes(damage)
        assert re.search(f"{VAL}.jpg' can't be read .* save it anew", complaint())
    photo.write_bytes(good_photo)
    for damage in (good_mask[:-30], good_mask[: len(good_mask) // 2], b"no mask"):
        mask.write_bytes(damage)
        assert re.search(f"{VAL}.png can't be read .* copy it", complaint())

    save_mask(mask, stripes(9, 0, 0))
    assert re.search(
        rf"{VAL}.png is \(15, 12\) pixels, its image .*{VAL}.jpg \(10, 12\) .* export the mask again", complaint()
    )
    save_mask(mask, stripes(9, 21))
    assert re.search(f"{VAL}.png holds 21: .* SegmentationClassAug", complaint())
    Image.fromarray(stripes(9, 0)).convert("RGB").save(mask)
    assert re.search(f"{VAL}.png has Pillow mode 'RGB', colours .* SegmentationClassAug", complaint())

    # Grey index PNGs are about too, and hold the same ids.
    Image.fromarray(stripes(9, 0)).save(mask)
    assert np.array_equal(Pascal5i(root, fold=1, split="val")[0].labels, stripes(1, 0))


def test_an_unknown_fold_is_named(tmp_path: Path) -> None:
    for fold in (4, -2):
        with pytest.raises(FusionerError, match=f"fold = {fold}: expected one of 0, 1, 2, 3"):
            Pascal5i(tmp_path, fold=fold, split="val")


def test_a_fold_that_holds_nothing_out_trains_and_validates_on_all_lists(made: Made) -> None:
    root = made({VAL: stripes(9, 18), OTHER_VAL: stripes(10, 0), DOG: stripes(12, 0), BOTH: stripes(5, 15)})
    train, val = (Pascal5i(root, fold=-1, split=split, novel="ignore") for split in ("train", "val"))
    assert {train.keys[scene] for scene, _ in train.pairs} == {DOG, BOTH} <= set(training_images())
    assert {name for _, name in train.pairs} == {"dog", "bottle", "person"}
    assert {(val.keys[scene], name) for scene, name in val.pairs} == {(VAL, "chair"), (VAL, "sofa"), (OTHER_VAL, "cow")}
    assert len(validation_pairs(-1)) == 346 + 451 + 725 + 346
