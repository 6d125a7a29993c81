"""A small PASCAL VOC and COCO in their published layouts, with drawn pictures under real image names."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fusionerlib.datasets.pascal import FOLDS, fold_classes, training_images, validation_pairs

COLOURS = np.random.default_rng(7).integers(0, 256, (21, 3), dtype=np.uint8)


def draw_voc(root: Path, *, each: int = 1) -> Path:
    """``each`` training and validation images of every class of every fold, 40 x 56 pixels, one object in each."""
    images, masks = root / "VOCdevkit/VOC2012/JPEGImages", root / "SegmentationClassAug"
    images.mkdir(parents=True)
    masks.mkdir()
    rng = np.random.default_rng(0)
    # No list says what a training image shows: the drawn mask does.
    spare = iter(training_images())
    train = {fold: [(next(spare), number) for number in fold_classes(fold) for _ in range(each)] for fold in FOLDS}
    for fold in FOLDS:
        for pairs in (train[fold], validation_pairs(fold)):
            left = {}
            for image, number in pairs:
                if left.setdefault(number, each) and not (images / f"{image}.jpg").exists():
                    left[number] -= 1
                    mask = np.zeros((40, 56), dtype=np.uint8)
                    top, side = rng.integers(2, 16), rng.integers(14, 22)
                    mask[top : top + side, top + 8 : top + 8 + side] = number
                    photo = np.where(mask[..., None] > 0, COLOURS[number], rng.integers(90, 130, (40, 56, 3)))
                    Image.fromarray(photo.astype(np.uint8)).save(images / f"{image}.jpg")
                    Image.fromarray(mask, mode="L").save(masks / f"{image}.png")
    return root


def draw_coco(root: Path) -> Path:
    """Four images of a zebra and a cake each."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    categories = [{"id": 24, "name": "zebra"}, {"id": 61, "name": "cake"}]
    listed, boxes = [], []
    for number in range(1, 5):
        photo = np.full((40, 56, 3), 30 * number, dtype=np.uint8)
        listed.append({"id": number, "file_name": f"{number:012}.jpg", "height": 40, "width": 56})
        for place, category in enumerate(categories):
            left = 4 + 26 * place
            photo[8:30, left : left + 20] = COLOURS[place + 3]
            corners = [left, 8, left + 20, 8, left + 20, 30, left, 30]
            boxes.append(
                {
                    **{"id": len(boxes) + 1, "image_id": number, "category_id": category["id"]},
                    **{"segmentation": [corners], "iscrowd": 0, "area": 440, "bbox": [left, 8, 20, 22]},
                }
            )
        Image.fromarray(photo).save(root / "images" / f"{number:012}.jpg")
    content = {"images": listed, "annotations": boxes, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root
