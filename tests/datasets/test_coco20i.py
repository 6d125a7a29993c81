"""COCO-20i on made layouts of every kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.coco import NAMES, Coco20i, fold_pairs
from fusionerlib.errors import FusionerError

pytest.importorskip("pycocotools", reason="the reader of COCO's masks is in the extra `data`")

# A validation image with a person, a bicycle and a dog, another with a dog; training images with a person and an
# umbrella, and with a person, a horse and a potted plant.
VAL, OTHER_VAL, UMBRELLA, HORSE = 74, 42, 36, 49
PERSON, BICYCLE, DOG, HORSES, PLANT, UMBRELLAS = 0, 1, 16, 17, 58, 25
HEIGHT, WIDTH = 12, 40
Pixels = np.ndarray
Made = Callable[..., Path]


def box(left: int, right: int) -> list[list[int]]:
    """The polygon of a rectangle of full height, columns left..right - 1."""
    return [[left, 0, right, 0, right, HEIGHT, left, HEIGHT]]


def crowd(left: int, right: int) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": [left * HEIGHT, (right - left) * HEIGHT, (WIDTH - right) * HEIGHT]}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A COCO folder. objects: (image, class index, columns from, to, is a crowd), in the file's order."""

    def make(objects: list[tuple[int, int, int, int, bool]], *, images: str, file: str, prefix: str = "") -> Path:
        for folder in (images, "annotations"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        rows, things = [], []
        for number in dict.fromkeys(row[0] for row in objects):
            name = f"{prefix}{number:012d}.jpg"
            photo = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(photo).save(tmp_path / images / name)
            rows.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for image, number, left, right, many in objects:
            shape = crowd(left, right) if many else box(left, right)
            things.append({"image_id": image, "category_id": 3 * number, "segmentation": shape, "iscrowd": int(many)})
        # Ids that are no indices, and an order of categories that is not COCO's.
        categories = [{"id": 3 * number, "name": name} for number, name in reversed(list(enumerate(NAMES)))]
        content = {"images": rows, "annotations": things, "categories": categories}
        (tmp_path / "annotations" / file).write_text(json.dumps(content))
        return tmp_path

    return make


def stripes(*parts: tuple[int, int, int]) -> Pixels:
    """Labels of full height: (value, columns from, to), one over the other."""
    raw = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for value, left, right in parts:
        raw[:, left:right] = value
    return raw


VAL_OBJECTS = [
    (VAL, PERSON, 0, 10, False),
    (VAL, BICYCLE, 5, 20, False),  # over the person
    (VAL, DOG, 12, 14, False),  # over the bicycle
    (VAL, BICYCLE, 13, 16, False),  # over the dog
    (VAL, PERSON, 18, 30, True),  # under everything
    (OTHER_VAL, DOG, 0, 8, False),
]
LAYOUTS = [
    ("val2014", "instances_val2014.json", "COCO_val2014_"),
    ("images/val2014", "instances_val2014.json", "COCO_val2014_"),
    ("val2017", "instances_val2017.json", ""),
    ("train2017", "instances_train2017.json", ""),
    ("images/val2017", "instances_val2017.json", ""),
    ("images", "instances.json", ""),
]


@pytest.mark.parametrize(("images", "file", "prefix"), LAYOUTS)
def test_every_layout_is_found(made: Made, images: str, file: str, prefix: str) -> None:
    root = made(VAL_OBJECTS, images=images, file=file, prefix=prefix)
    zero, one = (Coco20i(root, fold=fold, split="val", present_only=True) for fold in (0, 1))
    assert [scene.key for scene in map(zero.__getitem__, range(2))] == [str(OTHER_VAL), str(VAL)]
    assert zero.pairs == [(1, "person"), (0, "dog"), (1, "dog")]
    assert zero.missing == len({image for image, _ in fold_pairs(0, "val")}) - 2
    assert np.array_equal(zero[1].labels, stripes((255, 18, 30), (1, 0, 5), (0, 5, 20), (2, 12, 13)))
    assert one.pairs == [(0, "bicycle")]
    assert np.array_equal(one[0].labels, stripes((255, 18, 30), (1, 5, 20), (0, 12, 13)))
    assert zero[1].image.shape == (HEIGHT, WIDTH, 3)


def test_images_of_both_parts_of_2017_are_joined(made: Made) -> None:
    made([row for row in VAL_OBJECTS if row[0] == VAL], images="val2017", file="instances_val2017.json")
    other = [row for row in VAL_OBJECTS if row[0] == OTHER_VAL]
    root = made(other, images="train2017", file="instances_train2017.json")
    scenes = Coco20i(root, fold=0, split="val", present_only=True)
    assert [scenes[index].mask("dog").sum() // HEIGHT for index in range(2)] == [8, 1]


def test_ready_made_masks_are_taken_where_there_are_any(made: Made) -> None:
    root = made(VAL_OBJECTS, images="val2014", file="instances_val2014.json", prefix="COCO_val2014_")
    painted = Coco20i(root, fold=0, split="val", present_only=True)
    (root / "annotations/val2014").mkdir()
    raws = {
        VAL: stripes((255, 18, 30), (PERSON + 1, 0, 5), (BICYCLE + 1, 5, 20), (DOG + 1, 12, 13)),
        OTHER_VAL: stripes((DOG + 1, 0, 8)),
    }
    for number, raw in raws.items():
        Image.fromarray(raw).save(root / f"annotations/val2014/COCO_val2014_{number:012d}.png")
    ready = Coco20i(root, fold=0, split="val", present_only=True)
    assert (painted.source, ready.source) == ("instances", "png")
    assert ready.fingerprint != painted.fingerprint
    assert ready.pairs == painted.pairs
    for index in range(2):
        assert np.array_equal(ready[index].labels, painted[index].labels)
    assert Coco20i(root, fold=0, split="val", source="instances", present_only=True).source == "instances"

    mask = root / f"annotations/val2014/COCO_val2014_{VAL:012d}.png"
    Image.fromarray(stripes((81, 0, 8))).save(mask)
    with pytest.raises(FusionerError, match=r"holds 81: not in COCO's class index \+ 1, which has 0 to 80"):
        ready[1]
    Image.fromarray(stripes((1, 0, 8))[1:]).save(mask)
    with pytest.raises(FusionerError, match=r"is \(40, 11\) pixels, its image .*\(40, 12\)"):
        ready[1]
    mask.unlink()
    with pytest.raises(FusionerError, match=rf"1 of 2 masks are missing, .*{VAL:012d}.png first: unpack"):
        Coco20i(root, fold=0, split="val", present_only=True)


def test_what_training_sees_of_a_folds_own_classes(made: Made) -> None:
    objects = [(HORSE, PERSON, 0, 10, False), (HORSE, HORSES, 10, 20, False), (HORSE, PLANT, 20, 30, False)]
    objects += [(UMBRELLA, UMBRELLAS, 0, 10, False), (UMBRELLA, PERSON, 10, 20, False), (HORSE, BICYCLE, 30, 35, False)]
    root = made(objects, images="train2014", file="instances_train2014.json", prefix="COCO_train2014_")

    def scene(fold: int, novel: Any) -> Any:
        scenes = Coco20i(root, fold=fold, split="train", novel=novel, present_only=True)
        assert scenes.fingerprint != Coco20i(root, fold=(fold + 1) % 4, split="train", present_only=True).fingerprint
        return scenes[1]

    # A bicycle that the list does not have is background, whatever the fold.
    assert scene(0, "background").names == ("horse", "potted plant")
    assert np.array_equal(scene(0, "background").labels, stripes((1, 10, 20), (2, 20, 30)))
    assert np.array_equal(scene(0, "ignore").labels, stripes((255, 0, 10), (1, 10, 20), (2, 20, 30)))
    assert np.array_equal(scene(3, "ignore").labels, stripes((1, 0, 10), (2, 10, 20), (3, 20, 30)))
    held_out = Coco20i(root, fold=1, split="train", present_only=True)
    assert [held_out.names(index) for index in range(2)] == [("person",), ("person", "potted plant")]


def test_an_image_of_crowds_alone_is_ignored_there(made: Made) -> None:
    objects = [*VAL_OBJECTS[:-1], (OTHER_VAL, DOG, 0, 8, True)]
    root = made(objects, images="val2014", file="instances_val2014.json", prefix="COCO_val2014_")
    scenes = Coco20i(root, fold=0, split="val", present_only=True)
    assert scenes.names(0) == ("dog",)
    assert np.array_equal(scenes[0].labels, stripes((255, 0, 8)))


def test_missing_images_are_an_error_unless_asked_for(made: Made, tmp_path: Path) -> None:
    root = made(VAL_OBJECTS, images="val2014", file="instances_val2014.json", prefix="COCO_val2014_")
    numbers = len({image for image, _ in fold_pairs(1, "val")})
    with pytest.raises(FusionerError, match="present_only=True to use only the other 1") as told:
        Coco20i(root, fold=1, split="val")
    assert f"{numbers - 1} of the {numbers} images" in str(told.value)
    first = min({image for image, _ in fold_pairs(1, "val")} - {VAL})
    assert f"val2014/COCO_val2014_{first:012d}.jpg first" in str(told.value)
    for present_only in (True, False):
        with pytest.raises(FusionerError, match=r"unpack them there$"):
            Coco20i(tmp_path / "nowhere", fold=1, split="val", present_only=present_only)


def test_files_that_describe_something_else_are_named(made: Made) -> None:
    root = made(VAL_OBJECTS, images="val2014", file="instances_val2014.json", prefix="COCO_val2014_")
    file = root / "annotations/instances_val2014.json"
    content = json.loads(file.read_text())

    def complaint(**changed: Any) -> str:
        file.write_text(json.dumps(content | changed))
        with pytest.raises(FusionerError) as told:
            Coco20i(root, fold=0, split="val", present_only=True)[1]
        return str(told.value)

    renamed = [row | {"name": row["name"].replace("dog", "hound")} for row in content["categories"]]
    assert "categories that are none of COCO's 80 (hot hound, hound)" in complaint(categories=renamed)
    others = [row for row in content["annotations"] if row["image_id"] == VAL]
    assert f"COCO_val2014_{OTHER_VAL:012d}.jpg first, have no masks" in complaint(annotations=others)
    wide = [row | {"width": 99} for row in content["images"]]
    assert "(12, 99) there, on disk (12, 40)" in complaint(images=wide)
    file.unlink()
    with pytest.raises(FusionerError, match=r"2 of 2 listed images.*\(0 files there\); unpack"):
        Coco20i(root, fold=0, split="val", present_only=True)


def test_unknown_settings_are_named(tmp_path: Path) -> None:
    for bad in ({"fold": 4}, {"split": "test"}, {"novel": "void"}, {"source": "jpg"}):
        settings: dict[str, Any] = {"fold": 0, "split": "val"} | bad
        ((name, value),) = bad.items()
        # Past the annotations, as a user without a type checker gets there.
        with pytest.raises(Exception, match=f"{name}.*{value}"):
            Coco20i(tmp_path, **settings)
