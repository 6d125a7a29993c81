"""COCO-20i: the packaged lists against the published ones, and scenes of real images against pycocotools' reader."""

import gzip
import hashlib
import re
from typing import Any

import numpy as np
import pytest

from fusionerlib.datasets.coco import FOLDS, NAMES, Coco20i, fold_classes, fold_pairs, published_pairs
from fusionerlib.datasets.scene import Scenes
from tests.datasets.test_pascal import SHARED, SPLITS, Pixels

pytest.importorskip("pycocotools", reason="the reader of COCO's masks is in the extra `data`")
MINI = SHARED / "coco-mini"
needs_mini = pytest.mark.skipif(not MINI.is_dir(), reason="a reduced copy of COCO is not on this machine")

# The lists ------------------------------------------------------------------------------------------------------------


def test_the_lists_have_the_published_sizes_and_classes() -> None:
    assert [len(fold_pairs(fold, "val")) for fold in FOLDS] == [35783, 17912, 14563, 14315]
    assert [len(fold_pairs(fold, "train")) for fold in FOLDS] == [95476, 133927, 141054, 141016]
    for fold in FOLDS:
        assert fold_classes(fold) == tuple(fold + 4 * v for v in range(20))
        assert {number for _, number in fold_pairs(fold, "val")} == set(fold_classes(fold))
        assert {number for _, number in fold_pairs(fold, "train")} == set(range(80)) - set(fold_classes(fold))
    assert not {image for image, _ in published_pairs("train")} & {image for image, _ in published_pairs("val")}


def test_the_packaged_lists_are_the_files_of_the_readme() -> None:
    rows = re.findall(r"\| `(\S+)` \| (\d+) \|.*\| `([0-9a-f]{64})` \|", (SPLITS / "coco20i/README.md").read_text())
    assert {f"{name}.gz" for name, _, _ in rows} == {file.name for file in (SPLITS / "coco20i").glob("*.gz")}
    for name, count, digest in rows:
        data = (SPLITS / "coco20i" / f"{name}.gz").read_bytes()
        assert data[3:8] == bytes(5), "the gzip header must hold no name and no time"
        lines = gzip.decompress(data)
        assert (len(lines.split()), hashlib.sha256(lines).hexdigest()) == (int(count), digest)
    assert sum(file.stat().st_size for file in SPLITS.rglob("*")) < 2_000_000


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published lists are not on this machine")
def test_every_fold_is_the_published_one() -> None:
    rows = pytest.importorskip("pandas").read_parquet(SHARED / "splits/coco20i_pairs.parquet")
    for (split, fold), part in rows.groupby(["split", "fold"], observed=True):
        assert set(part["subset"]) == {split}
        assert fold_pairs(fold, split) == list(zip(part["image_id"], part["class_id"], strict=True))


# The reduced copy of COCO ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coco() -> Any:
    from pycocotools.coco import COCO

    return COCO(MINI / "annotations/instances.json")


def painted(coco: Any, number: int) -> Pixels:
    """Class index + 1, objects in the file's order, crowds ignored: by pycocotools' own reader and rasterizer."""
    order = sorted(coco.cats)
    row = coco.imgs[number]
    raw = np.zeros((row["height"], row["width"]), dtype=np.uint8)
    for crowd in (1, 0):
        for item in coco.loadAnns(coco.getAnnIds(number, iscrowd=crowd)):
            raw[coco.annToMask(item) == 1] = 255 if crowd else order.index(item["category_id"]) + 1
    return raw


@needs_mini
def test_names_are_cocos_in_cocos_order(coco: Any) -> None:
    assert [row["name"] for _, row in sorted(coco.cats.items())] == list(NAMES)


@needs_mini
@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_pairs_agree_with_a_count_over_the_parquet(fold: int, split: Any) -> None:
    rows = pytest.importorskip("pandas").read_parquet(SHARED / "splits/coco20i_pairs.parquet")
    here = rows[rows.image_id.isin([int(file.stem) for file in (MINI / "images").iterdir()])]
    here = here[(here.fold == fold) & (here.split == split)]
    scenes = Coco20i(MINI, fold=fold, split=split, present_only=True)
    assert isinstance(scenes, Scenes)
    assert len(scenes.pairs) == len(here) > 100
    assert [(scenes._ids[scene], NAMES.index(name)) for scene, name in scenes.pairs] == list(
        zip(here.image_id, here.class_id, strict=True)
    )
    assert len(scenes) == here.image_id.nunique()
    assert scenes.missing == len({image for image, _ in fold_pairs(fold, split)}) - len(scenes)


@needs_mini
def test_random_labels_are_pycocotools_masks(coco: Any) -> None:
    rng, crowds, novels = np.random.default_rng(0), 0, 0
    for fold, novel in ((0, "ignore"), (1, "background"), (2, "ignore"), (3, "background")):
        for split in ("train", "val"):
            scenes = Coco20i(MINI, fold=fold, split=split, novel=novel, present_only=True)  # type: ignore[arg-type]
            for index in rng.integers(0, len(scenes), 3).tolist():
                scene = scenes[index]
                raw = painted(coco, int(scene.key))
                expected = np.zeros_like(raw)
                for place, name in enumerate(scene.names, start=1):
                    expected[raw == NAMES.index(name) + 1] = place
                held_out = np.isin(raw, [number + 1 for number in fold_classes(fold)])
                if split == "train" and novel == "ignore":
                    expected[held_out] = 255
                    novels += bool(held_out.any())
                expected[raw == 255] = 255
                assert np.array_equal(scene.labels, expected), scene.key
                assert scene.names == scenes.names(index)
                crowds += bool((raw == 255).any())
    assert crowds
    assert novels


@needs_mini
def test_the_lists_follow_from_masks_painted_in_the_files_order(coco: Any) -> None:
    """Listed is what covers 2048 pixels of the original, which is 448 to 640 pixels long where the copy is 448.

    Painted any other way some hundred classes are hidden or uncovered that the lists have otherwise.
    """
    listed: dict[int, set[int]] = {}
    for image, number in (*published_pairs("train"), *published_pairs("val")):
        if image in coco.imgs:
            listed.setdefault(image, set()).add(number)
    surely, surely_not = 0, 0
    for image, numbers in listed.items():
        area = np.bincount(painted(coco, image).ravel(), minlength=256)[1:81]
        large = set(np.flatnonzero(area > 1.05 * 2048))
        small = set(np.flatnonzero(area < 0.8 * 2048 / (640 / 448) ** 2))
        assert large <= numbers, image
        assert not small & numbers, image
        surely += len(large)
        surely_not += len(small & set(np.flatnonzero(area)))
    assert surely > 900
    assert surely_not > 350


@needs_mini
def test_every_file_opens() -> None:
    for split in ("train", "val"):
        scenes = Coco20i(MINI, fold=2, split=split, present_only=True)  # type: ignore[arg-type]
        for index in range(0, len(scenes), 5):
            scene = scenes[index]
            assert set(np.unique(scene.labels)) - {0, 255} <= set(range(1, len(scene.names) + 1))
            assert scene.labels.any(), scene.key
