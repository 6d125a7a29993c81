"""PASCAL-5i: the packaged lists against the published ones, and scenes of real images against their masks."""

import gzip
import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.pascal import (
    FOLDS,
    NAMES,
    NO_FOLD,
    TRAINING_PAIRS,
    Pascal5i,
    fold_classes,
    training_images,
    training_pair_count,
    validation_pairs,
)
from tests.datasets.test_pascal import MINI, SHARED, SPLITS, Pixels, needs_mini

# The lists ------------------------------------------------------------------------------------------------------------


def test_the_packaged_lists_are_the_published_ones() -> None:
    rows = re.findall(r"\| `(\S+)` \| (\d+) \| `([0-9a-f]{64})` \|", (SPLITS / "README.md").read_text())
    packed = {file.name: file.read_bytes() for file in SPLITS.glob("*.gz")}
    assert {f"{name}.gz" for name, _, _ in rows} == set(packed)
    for name, count, digest in rows:
        data = packed[f"{name}.gz"]
        assert data[3:8] == bytes(5), "the gzip header must hold no name and no time"
        lines = gzip.decompress(data)
        assert (len(lines.split()), hashlib.sha256(lines).hexdigest()) == (int(count), digest)
        if SHARED.is_dir() and "val" in name:
            fold = re.findall("fold.", name)[0]
            assert lines == (SHARED / f"splits/pascal5i/val/{fold}.txt").read_bytes()


def published_training_pairs(fold: int) -> list[tuple[str, int]]:
    """The training list of the fold's own classes, as the authors published it."""
    lines = (SHARED / f"splits/pascal5i/train/fold{fold}.txt").read_text().split()
    return [(line.split("__")[0], int(line.split("__")[1])) for line in lines]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published lists are not on this machine")
def test_the_training_images_are_those_of_the_published_lists() -> None:
    lists = [published_training_pairs(fold) for fold in FOLDS]
    assert list(training_images()) == sorted({image for pairs in lists for image, _ in pairs})
    assert tuple(map(len, lists)) == TRAINING_PAIRS


def test_the_lists_have_the_published_sizes_and_classes() -> None:
    assert [len(validation_pairs(fold)) for fold in FOLDS] == [346, 451, 725, 346]
    for fold in FOLDS:
        assert {number for _, number in validation_pairs(fold)} == set(fold_classes(fold))
        assert training_pair_count(fold) == 2885 + 3816 + 6529 + 2325 - TRAINING_PAIRS[fold]
    assert training_pair_count(NO_FOLD) == 2885 + 3816 + 6529 + 2325


def test_no_validation_image_of_any_fold_trains() -> None:
    validation = {image for image, _ in validation_pairs(NO_FOLD)}
    assert len(validation) == 1381 and len(set(training_images())) == len(training_images()) == 10582
    assert not validation & set(training_images())


# The reduced copy of VOC 2012 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def present() -> dict[str, set[int]]:
    """The class ids in every mask, counted without the library."""
    files = (MINI / "SegmentationClassAug").glob("*.png")
    return {file.stem: set(np.unique(np.asarray(Image.open(file))).tolist()) - {0, 255} for file in files}


@needs_mini
@pytest.mark.parametrize("fold", FOLDS)
def test_training_pairs_are_those_of_the_published_lists(present: dict[str, set[int]], fold: int) -> None:
    """Computed from the masks; compared with the authors' lists (in their order), and with a count of our own."""
    scenes = Pascal5i(MINI, fold=fold, split="train")
    pairs = [(scenes.keys[scene], NAMES.index(name) + 1) for scene, name in scenes.pairs]
    lists = [pair for other in FOLDS if other != fold for pair in published_training_pairs(other)]
    assert pairs == [(image, number) for image, number in lists if image in present]
    held_out = set(fold_classes(fold))
    listed = set(training_images()) & set(present)
    assert set(pairs) == {(image, number) for image in listed for number in present[image] - held_out}
    assert scenes.missing == 10582 - 2031
    assert [scenes.names(i) for i in range(len(scenes))] == [
        tuple(NAMES[number - 1] for number in sorted(present[key] - held_out)) for key in scenes.keys
    ]


@needs_mini
@pytest.mark.parametrize("fold", FOLDS)
def test_validation_pairs_are_the_list_on_disk(present: dict[str, set[int]], fold: int) -> None:
    scenes = Pascal5i(MINI, fold=fold, split="val")
    pairs = [(scenes.keys[scene], NAMES.index(name) + 1) for scene, name in scenes.pairs]
    assert pairs == [pair for pair in validation_pairs(fold) if pair[0] in present] != []
    assert all(number in present[image] & set(fold_classes(fold)) for image, number in pairs)
    assert len(scenes) == len({image for image, _ in pairs})
    assert scenes.missing == len({image for image, _ in validation_pairs(fold)}) - len(scenes)
    assert [scenes.names(i) for i in range(len(scenes))] == [
        tuple(NAMES[number - 1] for number in sorted(number for image, number in pairs if image == key))
        for key in scenes.keys
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
