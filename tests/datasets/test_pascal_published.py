"""PASCAL-5i: the packaged lists against the published ones, and scenes of real images against their masks."""

import gzip
import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.pascal import FOLDS, NAMES, Pascal5i, fold_classes, fold_pairs, published
from tests.datasets.test_pascal import MINI, SHARED, SPLITS, Pixels, needs_mini

# The lists ------------------------------------------------------------------------------------------------------------


def test_the_packaged_lists_are_the_published_ones() -> None:
    rows = re.findall(r"\| `(\S+)` \| (\d+) \| `([0-9a-f]{64})` \|", (SPLITS / "README.md").read_text())
    packed = {file.name: file.read_bytes() for file in SPLITS.glob("*.gz")}
    assert {f"{name}.gz" for name, _, _ in rows} == set(packed)
    assert sum(map(len, packed.values())) < 200_000
    for name, count, digest in rows:
        data = packed[f"{name}.gz"]
        assert data[3:8] == bytes(5), "the gzip header must hold no name and no time"
        lines = gzip.decompress(data)
        assert (len(lines.split()), hashlib.sha256(lines).hexdigest()) == (int(count), digest)
        if SHARED.is_dir():
            split, fold = re.findall("train|val|fold.", name)
            assert lines == (SHARED / "splits/pascal5i" / split / f"{fold}.txt").read_bytes()


def test_the_lists_have_the_published_sizes_and_classes() -> None:
    assert [len(fold_pairs(fold, "val")) for fold in FOLDS] == [346, 451, 725, 346]
    for fold in FOLDS:
        held_out = {number for _, number in fold_pairs(fold, "val")}
        trained = {number for _, number in fold_pairs(fold, "train")}
        assert held_out == set(fold_classes(fold))
        assert trained == set(range(1, 21)) - held_out
        assert len(fold_pairs(fold, "train")) == 2885 + 3816 + 6529 + 2325 - len(published(fold, "train"))


def test_no_validation_image_of_any_fold_trains() -> None:
    validation = {image for fold in FOLDS for image, _ in fold_pairs(fold, "val")}
    assert len(validation) == 1381
    assert not any(image in validation for fold in FOLDS for image, _ in fold_pairs(fold, "train"))


# The reduced copy of VOC 2012 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def present() -> dict[str, set[int]]:
    """The class ids in every mask, counted without the library."""
    files = (MINI / "SegmentationClassAug").glob("*.png")
    return {file.stem: set(np.unique(np.asarray(Image.open(file))).tolist()) - {0, 255} for file in files}


@needs_mini
@pytest.mark.parametrize("fold", FOLDS)
def test_pairs_agree_with_a_count_over_the_masks(present: dict[str, set[int]], fold: int) -> None:
    train, val = Pascal5i(MINI, fold=fold, split="train"), Pascal5i(MINI, fold=fold, split="val")
    held_out = set(range(5 * fold + 1, 5 * fold + 6))
    listed = {image for other in FOLDS for image, _ in published(other, "train")} & set(present)
    counted = {(image, NAMES[c - 1]) for image in listed for c in present[image] - held_out}
    assert {(train.keys[scene], name) for scene, name in train.pairs} == counted
    for scene, name in val.pairs:
        assert NAMES.index(name) + 1 in present[val.keys[scene]] & held_out

    for scenes, split in ((train, "train"), (val, "val")):
        pairs = fold_pairs(fold, split)  # type: ignore[arg-type]
        on_disk = [(image, NAMES[c - 1]) for image, c in pairs if image in present]
        assert [(scenes.keys[scene], name) for scene, name in scenes.pairs] == on_disk
        assert scenes.missing == len(pairs) - len(on_disk) > 0
        assert len(scenes) == len({image for image, _ in on_disk}) > 0
        assert [scenes.names(i) for i in range(len(scenes))] == [
            tuple(NAMES[c - 1] for c in sorted(c for image, c in pairs if image == key)) for key in scenes.keys
        ]


def remapped_by_hand(raw: Pixels, names: tuple[str, ...], *, ignored: set[int]) -> Pixels:
    labels = np.zeros_like(raw)
    for place, name in enumerate(names):
        labels[raw == NAMES.index(name) + 1] = place + 1
    for number in ignored | {255}:
        labels[raw == number] = 255
    return labels


@needs_mini
@pytest.mark.parametrize("novel", ["background", "ignore"])
def test_labels_are_the_raw_masks_remapped(novel: str) -> None:
    rng, official = np.random.default_rng(0), 0
    for fold in (0, 1, 2, 3):
        held_out = set(range(5 * fold + 1, 5 * fold + 6))
        train = Pascal5i(MINI, fold=fold, split="train", novel=novel)  # type: ignore[arg-type]
        val = Pascal5i(MINI, fold=fold, split="val", novel=novel)  # type: ignore[arg-type]
        for scenes, ignored in ((train, held_out if novel == "ignore" else set()), (val, set())):
            for index in rng.integers(0, len(scenes), 10).tolist():
                scene = scenes[index]
                raw = np.asarray(Image.open(MINI / "SegmentationClassAug" / f"{scene.key}.png"))
                assert np.array_equal(scene.labels, remapped_by_hand(raw, scene.names, ignored=ignored)), scene.key
                assert scene.names == scenes.names(index)
                official += 255 in raw
    assert official > 5


@needs_mini
def test_every_file_opens_and_every_name_has_pixels() -> None:
    """Folds 1 and 3 between them train on every training image here; each fold's validation list is read in full."""
    opened = set()
    for fold, split in ((1, "train"), (3, "train"), *((fold, "val") for fold in FOLDS)):
        scenes = Pascal5i(MINI, fold=fold, split=split)  # type: ignore[arg-type]
        for index in range(len(scenes)):
            if scenes.keys[index] not in opened:
                scene = scenes[index]
                opened.add(scene.key)
                assert set(np.unique(scene.labels)) - {0, 255} == set(range(1, len(scene.names) + 1)), scene.key
    assert len(opened) == 2031 + 431


@needs_mini
@pytest.mark.parametrize("fold", FOLDS)
def test_no_novel_class_is_in_a_training_label_map(present: dict[str, set[int]], fold: int) -> None:
    """In images that do show novel classes, none of their pixels has a label and none of their names is there."""
    held_out = list(range(5 * fold + 1, 5 * fold + 6))
    train = Pascal5i(MINI, fold=fold, split="train")
    assert not {NAMES[number - 1] for number in held_out} & {name for _, name in train.pairs}
    showing = [index for index, key in enumerate(train.keys) if present[key] & set(held_out)]
    for index in showing[::4]:
        scene = train[index]
        novel = np.isin(np.asarray(Image.open(MINI / "SegmentationClassAug" / f"{scene.key}.png")), held_out)
        assert novel.any()
        assert not scene.labels[novel].any(), scene.key
    assert len(showing) > 60
