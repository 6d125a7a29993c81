"""COCO instances against pycocotools' own reader, hand-made shapes, and files with every kind of damage."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.coco_instances import CocoInstances, Instance, object_mask
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError
from tests.datasets.test_pascal import SHARED

pytest.importorskip("pycocotools", reason="the reader of COCO's masks is in the extra `data`")
MINI = SHARED / "coco-mini"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="a reduced copy of COCO is not on this machine")
HEIGHT, WIDTH = 20, 30
Item = dict[str, Any]
Made = Callable[..., Path]


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """The polygon of a rectangle whose pixels are columns left..right - 1 and rows top..bottom - 1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask: np.ndarray) -> Item:
    """Uncompressed run lengths, column by column, the first run of zeros (the format's definition)."""
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def thing(image: int, category: int, shape: Any, crowd: int = 0) -> Item:
    return {"image_id": image, "category_id": category, "segmentation": shape, "iscrowd": crowd}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A COCO folder with the given objects; image files are ``prefix`` and the id."""

    def make(
        objects: list[Item], *, file: str = "instances.json", folder: str = "images", prefix: str = "", images: int = 2
    ) -> Path:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(1, images + 1):
            name = f"{prefix}{number:04d}.png"
            photo = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / folder / name)
            rows.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        names = {7: "cat", 3: "dog", 90: "couch"}
        content = {
            "images": rows,
            "annotations": objects,
            "categories": [{"id": number, "name": name} for number, name in names.items()],
        }
        (tmp_path / "annotations" / file).write_text(json.dumps(content))
        return tmp_path

    return make


# Against another reader -----------------------------------------------------------------------------------------------


@needs_mini
def test_the_reduced_copy_agrees_with_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    other, scenes = COCO(str(MINI / "annotations/instances.json")), CocoInstances(MINI)
    assert len(scenes) == 544 and scenes.missing == 0 and isinstance(scenes, Scenes)
    names = {number: row["name"] for number, row in other.cats.items()}
    for index in range(0, len(scenes), 9):
        scene = scenes[index]
        rows = other.loadAnns(other.getAnnIds(imgIds=int(scene.key)))
        masks = [other.annToMask(row).astype(bool) for row in rows]
        assert set(scene.names) == {names[row["category_id"]] for row in rows if not row["iscrowd"]}
        areas = np.array([np.inf if row["iscrowd"] else mask.sum() for row, mask in zip(rows, masks, strict=True)])
        # At each pixel, the smallest object that covers it; a crowd only where nothing else does.
        cover = np.where(np.stack(masks), areas[:, None, None], np.nan)
        covered = ~np.isnan(cover).all(0)
        assert ((scene.labels > 0) == covered).all()
        smallest = np.nanmin(np.where(covered, cover, 0), axis=0)
        for row, mask, area in zip(rows, masks, areas, strict=True):
            label = 255 if row["iscrowd"] else scene.names.index(names[row["category_id"]]) + 1
            ties = (areas == area).sum() > 1
            mine = mask & covered & (smallest == area)
            assert ties or (scene.labels[mine] == label).all()


def test_shapes_are_read_in_all_three_forms() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:9, 5:21] = True
    from pycocotools import mask as packer

    compressed = packer.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    for shape in (box(5, 3, 21, 9), runs(mask), compressed, text):
        assert (object_mask(shape, HEIGHT, WIDTH, where="here") == mask).all()
    two = [*box(5, 3, 21, 9), *box(0, 15, 4, 18)]
    mask[15:18, :4] = True
    assert (object_mask(two, HEIGHT, WIDTH, where="here") == mask).all()


# What lies on what ----------------------------------------------------------------------------------------------------


def test_small_objects_lie_on_large_ones_and_all_on_crowds(made: Made) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), dtype=bool)
    crowd[:5] = True
    objects = [
        thing(1, 3, box(12, 8, 16, 12)),
        thing(1, 90, box(10, 2, 25, 18)),
        thing(1, 3, runs(crowd), crowd=1),
    ]
    scene = CocoInstances(made(objects))[0]
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[:5] = 255
    expected[2:18, 10:25] = 2
    expected[8:12, 12:16] = 1
    assert scene.names == ("dog", "couch") and scene.key == "1"
    assert (scene.labels == expected).all()


def test_images_without_an_object_are_skipped(made: Made) -> None:
    crowd = runs(np.ones((HEIGHT, WIDTH), dtype=bool))
    root = made([thing(2, 7, box(1, 1, 9, 9)), thing(3, 7, crowd, crowd=1)], images=3)
    scenes = CocoInstances(root)
    assert [scenes[i].key for i in range(len(scenes))] == ["2"] and scenes.missing == 0


# Where the files lie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "folder", "prefix"),
    [
        ("instances_val2017.json", "val2017", ""),
        ("instances_train2014.json", "train2014", "COCO_train2014_"),
        ("instances_val2017.json", "images/val2017", ""),
        ("instances.json", "images", ""),
        ("instances.json", ".", ""),
    ],
)
def test_published_layouts_are_found(made: Made, file: str, folder: str, prefix: str) -> None:
    root = made([thing(1, 7, box(1, 1, 9, 9))], file=file, folder=folder, prefix=prefix)
    scenes = CocoInstances(root)
    assert (scenes.names(0), scenes[0].names) == (("cat",), ("cat",))
    assert scenes[0].image.shape == (HEIGHT, WIDTH, 3)


def test_of_several_files_one_must_be_named(made: Made, tmp_path: Path) -> None:
    root = made([thing(1, 7, box(1, 1, 9, 9))], file="instances_val2017.json", folder="val2017")
    made([thing(1, 3, box(1, 1, 9, 9))], file="instances_train2017.json", folder="train2017")
    with pytest.raises(FusionerError, match=r"several \(instances_train2017.json, instances_val2017.json\).*annotat"):
        CocoInstances(root)
    chosen = CocoInstances(root, annotations=root / "annotations/instances_val2017.json")
    assert chosen.names(0) == ("cat",) and chosen.images == root / "val2017"
    assert CocoInstances(root, annotations=chosen.file, images=root / "train2017").images == root / "train2017"


def test_images_that_are_not_there_are_counted(made: Made) -> None:
    root = made([thing(1, 7, box(1, 1, 9, 9)), thing(2, 3, box(1, 1, 9, 9))])
    whole = CocoInstances(root).fingerprint
    (root / "images/0001.png").unlink()
    scenes = CocoInstances(root)
    assert [scenes.names(i) for i in range(len(scenes))] == [("dog",)] and scenes.missing == 1
    assert scenes.fingerprint != whole
    (root / "images/0002.png").unlink()
    with pytest.raises(FusionerError, match="none of the 2 images"):
        CocoInstances(root)


def test_the_fingerprint_follows_the_objects(made: Made) -> None:
    first = CocoInstances(made([thing(1, 7, box(1, 1, 9, 9))])).fingerprint
    assert CocoInstances(made([thing(1, 7, box(1, 1, 9, 9))])).fingerprint == first
    assert CocoInstances(made([thing(1, 7, box(1, 1, 9, 8))])).fingerprint != first


# Damage ---------------------------------------------------------------------------------------------------------------


def test_an_image_of_another_size_is_refused(made: Made) -> None:
    root = made([thing(1, 7, box(1, 1, 9, 9))])
    Image.new("RGB", (WIDTH - 1, HEIGHT)).save(root / "images/0001.png")
    with pytest.raises(FusionerError, match=r"0001\.png is 29x20 pixels, .*instances\.json says 30x20"):
        CocoInstances(root)[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [], "annotations": []}'])
def test_a_file_of_another_kind_is_refused(made: Made, content: str) -> None:
    root = made([])
    file = root / "annotations/instances.json"
    file.write_text(content)
    with pytest.raises(FusionerError, match=re.escape(f"{file} can't be read as COCO instances")):
        CocoInstances(root)


def test_a_root_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match="no annotations/instances"):
        CocoInstances(tmp_path)


# What others may ask of the file --------------------------------------------------------------------------------------


def test_objects_sizes_and_labels_without_opening_an_image(made: Made) -> None:
    shapes = [box(1, 2, 9, 8), box(10, 2, 20, 12), box(0, 0, 4, 4)]
    root = made([thing(1, 90, shapes[0]), thing(1, 3, shapes[1], crowd=1), thing(3, 7, shapes[2])], images=3)
    scenes = CocoInstances(root)
    assert scenes.categories == ("cat", "dog", "couch")
    assert [file.name for file in scenes.files] == ["0001.png", "0003.png"]
    assert scenes.sizes == dict.fromkeys((1, 2, 3), (HEIGHT, WIDTH))
    assert scenes.instances(1) == (Instance("couch", shapes[0], False), Instance("dog", shapes[1], True))
    assert scenes.instances(2) == scenes.instances(99) == ()
    painted = [scenes[index].labels for index in range(2)]
    for file in scenes.files:
        file.unlink()
    for index, labels in enumerate(painted):
        assert (scenes.labels(index) == labels).all() and (labels > 0).any()
