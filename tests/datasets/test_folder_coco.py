"""A user's own folder with a COCO file, or one a split, instead of masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError
from tests.datasets.test_folder import eleven, keys, made
from tests.datasets.test_pascal import SHARED

__all__ = ["eleven", "made"]
COCO_MINI = SHARED / "coco-mini"
needs_coco_mini = pytest.mark.skipif(not COCO_MINI.is_dir(), reason="a reduced copy of COCO is not on this machine")


@pytest.fixture
def coco(eleven: Path) -> Path:
    """The eleven images with a COCO file instead of masks; image n shows a cat on its left half, for n above 0."""
    for file in [*(eleven / "masks").iterdir(), eleven / "names.txt"]:
        file.unlink()
    (eleven / "masks").rmdir()
    (eleven / "annotations").mkdir()
    write_coco(eleven / "annotations/instances.json", range(11))
    return eleven


def write_coco(file: Path, numbers: Any) -> None:
    rows = [{"id": n, "file_name": f"i{n:02d}.jpg", "height": 12, "width": 5} for n in numbers]
    half = [[0, 0, 3, 0, 3, 12, 0, 12]]
    things = [{"image_id": n, "category_id": 1, "segmentation": half, "iscrowd": 0} for n in numbers if n]
    content = {"images": rows, "annotations": things, "categories": [{"id": 1, "name": "cat"}]}
    file.write_text(json.dumps(content))


def test_a_coco_file_of_all_images_follows_the_same_lists(coco: Path) -> None:
    assert keys(read_folder(coco)) == [str(number) for number in range(1, 11)]
    assert keys(read_folder(coco, split="val")) == ["5", "10"]
    assert keys(read_folder(coco, split="train")) == ["1", "2", "3", "4", "6", "7", "8", "9"]
    (coco / "val.txt").write_text("i04\n")
    scenes = read_folder(coco, split="val")
    assert isinstance(scenes, Scenes)
    assert np.array_equal(scenes[0].mask("cat"), np.arange(5) < np.full((12, 1), 3))
    (coco / "annotations/instances.json").rename(coco / "_annotations.coco.json")
    assert keys(read_folder(coco, split="val")) == ["4"]


def test_a_coco_file_for_each_split(coco: Path) -> None:
    (coco / "annotations/instances.json").unlink()
    with pytest.raises(FusionerError, match=r"neither masks nor a COCO file: expected masks/<stem>\.png"):
        read_folder(coco)
    write_coco(coco / "annotations/instances_train.json", range(8))
    with pytest.raises(FusionerError, match=r"instances_val\.json"):
        read_folder(coco, split="val")
    write_coco(coco / "annotations/instances_val.json", range(8, 11))
    assert keys(read_folder(coco, split="val")) == ["8", "9", "10"]
    assert keys(read_folder(coco, split="train")) == [str(number) for number in range(1, 8)]
    whole = read_folder(coco)
    assert keys(whole) == [f"train/{number}" for number in range(1, 8)] + ["val/8", "val/9", "val/10"]
    (coco / "annotations/instances_train.json").rename(coco / "annotations/instances.json")
    (coco / "annotations/instances_val.json").rename(coco / "annotations/instances_a.json")
    with pytest.raises(FusionerError, match=r"several COCO files \(instances\.json, instances_a\.json\)"):
        read_folder(coco)


@needs_coco_mini
def test_coco_as_a_folder_gives_pycocotools_masks() -> None:
    """A pixel has the name of an object that covers it; one that objects of one name alone cover has that name."""
    reader = pytest.importorskip("pycocotools.coco").COCO(COCO_MINI / "annotations/instances.json")
    content = json.loads((COCO_MINI / "annotations/instances.json").read_text())
    scenes = read_folder(COCO_MINI)
    assert len(scenes) == len({row["image_id"] for row in content["annotations"] if not row["iscrowd"]})
    for index in np.random.default_rng(2).integers(0, len(scenes), 20).tolist():
        scene = scenes[index]
        unions = {name: np.zeros(scene.labels.shape, dtype=bool) for name in scene.names}
        for item in reader.loadAnns(reader.getAnnIds(int(scene.key), iscrowd=0)):
            unions[reader.cats[item["category_id"]]["name"]] |= reader.annToMask(item) == 1
        covers = sum(union.astype(int) for union in unions.values())
        for name, union in unions.items():
            assert not (scene.mask(name) & ~union).any()
            assert scene.mask(name)[union & (covers == 1)].all()
        assert not np.isin(scene.labels[covers > 0], [0, 255]).any()
