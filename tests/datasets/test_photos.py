"""The joined training photographs: what a fold holds out is nowhere in them, checked on the masks themselves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.config import DataConfig
from fusionerlib.datasets.names import VocCoco
from fusionerlib.datasets.pascal import FOLDS, NO_FOLD, validation_pairs
from fusionerlib.datasets.scene import Scene, vocabulary
from fusionerlib.datasets.sets import DataSets, load_datasets
from fusionerlib.errors import FusionerError
from tests.datasets.test_pascal import SHARED

needs_minis = pytest.mark.skipif(not SHARED.is_dir(), reason="reduced copies of VOC 2012 and COCO are not here")

# Written out by hand: what each fold holds out, by all names, and VOC's class ids and COCO's names of it.
HELD_OUT = {
    0: "aeroplane airplane bicycle bird boat bottle",
    1: "bus car cat chair cow",
    2: "dining_table diningtable dog horse motorbike motorcycle person",
    3: "potted_plant pottedplant sheep sofa couch train tv tv_monitor tvmonitor",
}
COCO_IDS = {
    0: {5, 2, 16, 9, 44},
    1: {6, 3, 17, 62, 21},
    2: {67, 18, 19, 4, 1},
    3: {64, 20, 63, 7, 72},
}


class Listed:
    """Scenes in memory."""

    fingerprint = "listed"

    def __init__(self, *scenes: Scene) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[index]

    def names(self, index: int) -> tuple[str, ...]:
        return self.scenes[index].names


def scene(*names: str, labels: list[int]) -> Scene:
    row = np.array([labels], dtype=np.uint8)
    return Scene(image=np.zeros((1, len(labels), 3), dtype=np.uint8), labels=row, names=names, key=" ".join(names))


def test_names_of_one_category_become_one_and_its_pixels_one_mask() -> None:
    merged = VocCoco(Listed(scene("sofa", "zebra", "couch", labels=[0, 1, 2, 3, 255])))
    assert merged.names(0) == merged[0].names == ("couch", "zebra")
    assert merged[0].labels.tolist() == [[0, 1, 2, 1, 255]]


@pytest.mark.parametrize("asked", ["sofa", "couch"])
def test_held_out_pixels_are_ignored_or_background_under_either_name(asked: str) -> None:
    scenes = Listed(scene("zebra", "sofa", labels=[0, 1, 2, 255]), scene("couch", "dog", labels=[1, 0, 2, 255]))
    ignored = VocCoco(scenes, without=[asked])
    assert [ignored.names(i) for i in range(2)] == [("zebra",), ("dog",)]
    assert [ignored[i].labels.tolist()[0] for i in range(2)] == [[0, 1, 255, 255], [255, 0, 1, 255]]
    paper = VocCoco(scenes, without=[asked], novel="background")
    assert [paper[i].labels.tolist()[0] for i in range(2)] == [[0, 1, 0, 255], [0, 0, 1, 255]]
    assert ignored.fingerprint != paper.fingerprint != VocCoco(scenes).fingerprint


def test_a_scene_without_a_name_left_is_dropped() -> None:
    scenes = Listed(scene("sofa", labels=[1]), scene("dog", labels=[1]), scene("couch", labels=[1]))
    kept = VocCoco(scenes, without=["couch"])
    assert [kept[i].key for i in range(len(kept))] == ["dog"]


# The reduced copies of VOC 2012 and COCO ------------------------------------------------------------------------------


def config(fold: int, novel: str = "ignore", size: int = 64) -> DataConfig:
    folders = {"root": SHARED / "voc-mini", "coco": SHARED / "coco-mini"}
    return DataConfig.model_validate({"dataset": "photos", "fold": fold, "novel": novel, "size": size, **folders})


def prepared(fold: int, novel: str = "ignore", size: int = 64) -> DataSets:
    return load_datasets(config(fold, novel, size))


@needs_minis
@pytest.mark.parametrize("fold", FOLDS)
def test_no_training_name_is_one_of_the_folds_classes(fold: int) -> None:
    names = set(vocabulary(prepared(fold).train))
    assert len(names) == 75
    assert not names & {name.replace("_", " ") for name in HELD_OUT[fold].split()}


@needs_minis
@pytest.mark.parametrize("fold", FOLDS)
def test_no_validation_image_of_any_fold_trains(fold: int) -> None:
    validation = {image for image, _ in validation_pairs(NO_FOLD)}
    train = prepared(fold).train
    voc = train.scenes.parts[0]  # type: ignore[attr-defined]
    keys = {voc.scenes.keys[index] for index in voc._indices}
    on_disk = {file.stem for file in (SHARED / "voc-mini/SegmentationClassAug").glob("*.png")}
    assert keys and keys <= on_disk - validation and on_disk & validation


@needs_minis
@pytest.mark.parametrize("fold", [1, 2, 3])
def test_held_out_pixels_of_both_sets_are_never_background(fold: int) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(SHARED / "coco-mini/annotations/instances.json"))
    voc_ids = range(5 * fold + 1, 5 * fold + 6)
    voc_part, coco_part = prepared(fold).train.scenes.parts  # type: ignore[attr-defined]
    met = 0
    for index in range(0, len(voc_part), 23):
        found = voc_part[index]
        raw = np.asarray(Image.open(SHARED / f"voc-mini/SegmentationClassAug/{found.key}.png"))
        met += int(np.isin(raw, voc_ids).any())
        assert (found.labels[np.isin(raw, voc_ids)] == 255).all()
    for index in range(0, len(coco_part), 7):
        found = coco_part[index]
        rows = coco.loadAnns(coco.getAnnIds(imgIds=int(found.key), catIds=sorted(COCO_IDS[fold])))
        for row in rows:
            met += 1
            assert (found.labels[coco.annToMask(row).astype(bool)] != 0).all()
    assert met > 20


@needs_minis
def test_a_name_held_out_beside_a_fold_is_ignored_in_every_part() -> None:
    street = DataConfig.model_validate({**config(1).model_dump(), "camvid": SHARED / "camvid-mini"})
    sets = load_datasets(street.model_copy(update={"held_out": ("tree", "bike")}))
    names, kept = set(vocabulary(sets.train)), set(vocabulary(load_datasets(street).train))
    assert kept - names == {"tree", "bicycle"}
    part = sets.train.scenes.parts[2]  # type: ignore[attr-defined]
    listed, met = (SHARED / "camvid-mini/names.txt").read_text().splitlines(), 0
    for index in range(0, len(part), 30):
        found = part[index]
        raw = np.asarray(Image.open(SHARED / f"camvid-mini/masks/{found.key}.png"))
        trees = raw == listed.index("tree") + (0 if listed[0] == "background" else 1)
        met += int(trees.any())
        assert (found.labels[trees] == 255).all()
    assert met > 3
    with pytest.raises(FusionerError, match="held_out 'lawn': no training image shows it"):
        load_datasets(street.model_copy(update={"held_out": ("lawn",)}))


@needs_minis
def test_background_is_the_papers_choice(tmp_path: Path) -> None:
    ignored, paper = prepared(3).train, prepared(3, "background").train
    assert len(ignored) == len(paper) and ignored.fingerprint != paper.fingerprint
    pairs = [(ignored[i].labels, paper[i].labels) for i in range(0, len(ignored), 60)]
    assert all((b[a != 255] == a[a != 255]).all() for a, b in pairs)
    assert any(((a == 255) & (b == 0)).any() for a, b in pairs)


@needs_minis
def test_the_test_is_the_published_list_by_canonical_names() -> None:
    sets = prepared(3)
    test, pairs = sets.tests["novel"], sets.test_pairs["novel"]
    counted = {name: sum(other == name for _, other in pairs) for _, name in pairs}
    assert counted == {"sheep": 49, "couch": 18, "potted plant": 5, "tv": 4}
    assert all(name in test.names(index) for index, name in pairs)
    assert test[0].image.shape == (64, 64, 3)
