"""Each thing that can be wrong with a data set on disk is found, named, and not let through."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.download.catalogue import DataSet, Instances, Part, Source, load_catalogue
from fusionerlib.datasets.download.mat_masks import CONTEXT_NAMES, augmented_masks, context_masks
from fusionerlib.datasets.download.verify import SAMPLE, verify
from fusionerlib.errors import FusionerError
from tests.datasets.published import coco_files, jpg, labels_of, mat, png, sbd_mat

Change = Callable[[Path], Any]


def data_set(count: int, **more: Any) -> DataSet:
    """Images in ``images``, masks in ``masks`` with indices 0-20 and 255."""
    parts = {
        "images": Part(path="images", files="*.jpg", count=count),
        "masks": Part(path="masks", files="*.png", count=count),
    }
    source = Source(name="a.zip", take={"images": ("images",), "masks": ("masks",)})
    given = {"pairs": (("images", "masks"),), "values": ((0, 20), (255, 255))} | more
    return DataSet(title="tiny", files=(source,), parts=parts, **given)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Three pairs."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for stem in "abc":
        (tmp_path / "images" / f"{stem}.jpg").write_bytes(jpg())
        (tmp_path / "masks" / f"{stem}.png").write_bytes(png(labels_of(0, 20, 255)))
    return {"images": tmp_path / "images", "masks": tmp_path / "masks"}


def rewrite(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


MASK = png(labels_of(0, 1))
WRONG: dict[str, tuple[Change, str]] = {
    "count": (lambda at: [(at / file).unlink() for file in ("images/b.jpg", "masks/b.png")], r"has 2 files .*are 3"),
    "no mask": (
        lambda at: (at / "masks/b.png").rename(at / "masks/d.png"),
        r"d\.png has no image; .*b\.jpg has no mask",
    ),
    "empty": (rewrite("images/b.jpg", b""), r"b\.jpg is empty"),
    "cut": (rewrite("images/b.jpg", jpg()[:-200]), r"b\.jpg can't be read as an image .*truncated"),
    "cut mask": (rewrite("masks/b.png", MASK[:-20]), r"b\.png can't be read"),
    "altered mask": (rewrite("masks/b.png", MASK[:45] + bytes([MASK[45] ^ 1]) + MASK[46:]), r"b\.png can't be read"),
    "page": (rewrite("images/b.jpg", b"<html>"), r"b\.jpg can't be read as an image"),
    "size": (rewrite("masks/b.png", png(labels_of(0, width=23))), r"b\.png is 23x16 .*24x16"),
    "value": (rewrite("masks/b.png", png(labels_of(0, 21))), r"b\.png holds 21, expected 0 to 20, 255"),
    "colours": (rewrite("masks/b.png", png(labels_of(0, 1), "RGB")), r"b\.png has Pillow mode 'RGB'"),
}


def test_a_good_set_passes(places: dict[str, Path]) -> None:
    assert verify(data_set(3), places, quiet=True) == ({"images": 3, "masks": 3}, 3)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(places: dict[str, Path], tmp_path: Path, what: str) -> None:
    change, told = WRONG[what]
    change(tmp_path)
    with pytest.raises(FusionerError, match=f"{told}.*: (unpack|replace)"):
        verify(data_set(3), places, quiet=True)
    if what == "count":
        assert verify(data_set(3), places, partial=True, quiet=True)[0] == {"images": 2, "masks": 2}
    else:
        with pytest.raises(FusionerError, match=told):
            verify(data_set(3), places, partial=True, quiet=True)


def test_a_sample_is_spread_and_all_are_opened_on_demand(tmp_path: Path) -> None:
    folders = {"images": tmp_path / "images", "masks": tmp_path / "masks"}
    photo, mask = jpg(), png(labels_of(0, 1))
    for folder in folders.values():
        folder.mkdir()
    for number in range(SAMPLE * 2 + 1):
        (tmp_path / "images" / f"{number:04}.jpg").write_bytes(photo)
        (tmp_path / "masks" / f"{number:04}.png").write_bytes(mask)
    (tmp_path / "images" / "0001.jpg").write_bytes(photo[:-100])  # not in the sample: every third is
    data = data_set(SAMPLE * 2 + 1)
    assert verify(data, folders, quiet=True)[1] == 134
    with pytest.raises(FusionerError, match=r"0001\.jpg can't be read"):
        verify(data, folders, thorough=True, quiet=True)


def test_masks_known_to_be_uneven_pass_and_images_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    data, classes = load_catalogue()["fss"], ("screw", "owl")
    for name in classes:
        (tmp_path / name).mkdir()
        for number in (7, 8):
            (tmp_path / name / f"{number}.jpg").write_bytes(jpg())
            (tmp_path / name / f"{number}.png").write_bytes(png(labels_of(0, 9, 255), "RGB"))
    (tmp_path / "screw" / "8.png").write_bytes(png(labels_of(0, 255, width=40)))
    there = dict.fromkeys(("images", "masks"), tmp_path)
    assert verify(data, there, partial=True, quiet=True) == ({"images": 4, "masks": 4}, 4)
    (tmp_path / "owl" / "8.png").write_bytes(png(labels_of(0, 255, width=40)))
    with pytest.raises(FusionerError, match=r"mask .*owl/8\.png is 40x16"):
        verify(data, there, partial=True, quiet=True)
    (tmp_path / "owl" / "8.png").unlink()
    with pytest.raises(FusionerError, match=r"image .*owl/8\.jpg has no mask"):
        verify(data, there, partial=True, quiet=True)


COCO_WRONG: dict[str, tuple[Callable[[dict], Any], str]] = {
    "size": (lambda given: given["images"][1].update(width=25), r"00008\.jpg is 24x16 pixels, .* says 25x16"),
    "image": (lambda given: given["annotations"][0].update(image_id=99), "object of image 99 that it does not list"),
    "category": (lambda given: given["annotations"][0].update(category_id=99), "object of category 99"),
    "objects": (lambda given: given["annotations"].pop(), "has 5 objects of 2 categories, published are 6 of 2"),
    "kind": (lambda given: given.pop("categories"), "can't be read as COCO instances"),
    "missing": (
        lambda given: given["images"].append({**given["images"][0], "file_name": "9.jpg"}),
        r"9\.jpg is missing",
    ),
}


@pytest.mark.parametrize("what", COCO_WRONG)
def test_what_is_wrong_with_coco_is_named(tmp_path: Path, what: str) -> None:
    files = coco_files(2014)
    (tmp_path / "train2014").mkdir()
    for name, content in files["train2014.zip"].items():
        (tmp_path / name).write_bytes(content)
    file = tmp_path / "instances.json"
    content = files["annotations_trainval2014.zip"]["annotations/instances_train2014.json"]
    data = load_catalogue()["coco-train2014"]
    parts = {key: part.model_copy(update={"count": 3 if key == "images" else 1}) for key, part in data.parts.items()}
    data = data.model_copy(update={"parts": parts, "instances": Instances(objects=6, categories=2)})
    there = {"images": tmp_path / "train2014", "instances": file}
    file.write_bytes(content)
    assert verify(data, there, quiet=True) == ({"images": 3, "instances": 1, "objects": 6}, 3)
    change, told = COCO_WRONG[what]
    given = json.loads(content)
    change(given)
    file.write_text(json.dumps(given))
    with pytest.raises(FusionerError, match=told):
        verify(data, there, quiet=True)
    file.write_bytes(content[:-50])
    with pytest.raises(FusionerError, match="can't be read as COCO instances"):
        verify(data, there, quiet=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no MATLAB file", "can't be read as a mask"),
        (mat(other=np.zeros((2, 2))), "KeyError: 'GTcls'"),
        (sbd_mat(labels_of(21)), "holds 21: expected class ids 0 to 20"),
        (sbd_mat(np.full((2, 2), 0.5)), "Segmentation is float64"),
    ],
)
def test_a_broken_map_of_sbd_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    there = {"VOC masks": tmp_path / "voc", "SBD masks": tmp_path / "cls"}
    for folder in there.values():
        folder.mkdir()
    (tmp_path / "cls" / "2008_000001.mat").write_bytes(content)
    with pytest.raises(FusionerError, match=rf"2008_000001\.mat .*{told}"):
        augmented_masks(there, tmp_path / "out", quiet=True)


def test_a_list_of_names_that_lacks_one_is_refused(tmp_path: Path) -> None:
    lines = [f"{number}: {name}" for number, name in enumerate(CONTEXT_NAMES) if name != "wood"]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    (tmp_path / "maps").mkdir()
    with pytest.raises(FusionerError, match=r"labels\.txt does not name wood"):
        context_masks({"459 names": tmp_path / "labels.txt", "459-class masks": tmp_path / "maps"}, tmp_path / "out")


def test_built_masks_have_the_colours_of_voc(tmp_path: Path) -> None:
    there = {"VOC masks": tmp_path / "voc", "SBD masks": tmp_path / "cls"}
    for folder in there.values():
        folder.mkdir()
    (tmp_path / "cls" / "a.mat").write_bytes(sbd_mat(labels_of(0, 1, 15, 20)))
    assert augmented_masks(there, tmp_path / "out", quiet=True) == 1
    with Image.open(tmp_path / "out" / "a.png") as mask:
        colours = np.array(mask.convert("RGB"))[::4, 0]
    # As VOC's documentation draws them.
    assert colours.tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128]]
