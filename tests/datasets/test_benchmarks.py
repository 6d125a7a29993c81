"""What a checkpoint is asked, against the raw masks and the published lists."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.config import DataConfig
from fusionerlib.datasets.all_classes import all_classes_names, all_classes_test
from fusionerlib.datasets.pascal import NAMES, NO_FOLD, validation_pairs
from fusionerlib.datasets.sets import load_datasets, other_benchmarks, own_benchmarks
from fusionerlib.errors import FusionerError
from tests.datasets.test_pascal import DOG, MINI, OTHER_VAL, SHARED, VAL, Made, made, needs_mini, stripes

__all__ = ["made"]
COCO_MINI = SHARED / "coco-mini"


@needs_mini
def test_the_all_classes_test_of_pascal_has_every_validation_image_with_all_its_classes() -> None:
    listed = {image for image, _ in validation_pairs(NO_FOLD)}
    on_disk = {file.stem for file in (MINI / "VOCdevkit/VOC2012/JPEGImages").glob("*.jpg")}
    scenes = all_classes_test("pascal", MINI)
    assert len(scenes) == len(listed & on_disk) == 431
    for index in (0, 100, 430):
        scene = scenes[index]
        raw = np.asarray(Image.open(MINI / "SegmentationClassAug" / f"{scene.key}.png"))
        for number, name in enumerate(NAMES, start=1):
            assert np.array_equal(scene.mask(name), raw == number)
    assert all_classes_names("pascal", MINI) == NAMES
    photos = all_classes_test("photos", MINI)
    shown = {name for index in range(60) for name in photos.names(index)}
    assert shown <= set(all_classes_names("photos", MINI)) and "couch" in shown and "sofa" not in shown


@needs_mini
def test_coco_meets_pascal_in_the_classes_that_training_had_under_no_name() -> None:
    trained = [name for name in all_classes_names("coco", COCO_MINI) if name not in ("couch", "cow", "motorcycle")]
    found = other_benchmarks("pascal", MINI, size=64, trained=trained)
    keys = [found["novel"].native[scene].key for scene, _ in found["novel"].pairs or []]
    asked = {(key, name) for key, (_, name) in zip(keys, found["novel"].pairs or [], strict=True)}
    wanted = {"cow": 10, "motorbike": 14, "sofa": 18}
    on_disk = {file.stem for file in (MINI / "VOCdevkit/VOC2012/JPEGImages").glob("*.jpg")}
    expected = {
        (image, name)
        for image, number in validation_pairs(NO_FOLD)
        for name, place in wanted.items()
        if number == place and image in on_disk
    }
    assert asked == expected and len(asked) == len(keys) > 80
    assert found["all"].names == NAMES and len(found["all"].scenes) == 431
    assert found["all"].scenes[0].image.shape == (64, 64, 3) != found["all"].native[0].image.shape


def test_a_pascal_run_is_asked_its_pairs_and_all_names(made: Made) -> None:
    root = made({VAL: stripes(9, 15), OTHER_VAL: stripes(10, 0), DOG: stripes(12, 0)})
    config = DataConfig(dataset="pascal", root=root, fold=1, size=32)
    found = own_benchmarks(config, load_datasets(config), all_at_once=True)
    assert list(found) == ["novel", "all"]
    assert [name for _, name in found["novel"].pairs or []] == ["chair", "cow"]
    assert [found["all"].scenes.names(index) for index in range(2)] == [("chair", "person"), ("cow",)]
    assert list(own_benchmarks(config, load_datasets(config), all_at_once=False)) == ["novel"]
    assert list(other_benchmarks("pascal", root, size=32, trained=["chair", "cow", "sofa"])) == ["all"]


def test_what_has_no_full_labels_is_told(tmp_path: Path, made: Made) -> None:
    with pytest.raises(FusionerError, match="'openmoji' has no test with every class labelled: expected one of pascal"):
        all_classes_test("openmoji", tmp_path)
    with pytest.raises(FusionerError, match=r"none of the .* images of the four validation lists"):
        all_classes_test("pascal", made({DOG: stripes(12)}))


def test_only_pascal_and_data_with_full_labels_get_a_test_of_all_names(drawn: Path) -> None:
    config = DataConfig(root=drawn, size=32, train_scenes=8, eval_scenes=4)
    assert list(own_benchmarks(config, load_datasets(config), all_at_once=True)) == ["seen", "combinations", "objects"]
