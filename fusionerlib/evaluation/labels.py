"""The names of figures as people write them."""

import re

WORDS = {"miou": "mIoU", "fb iou": "FB-IoU"}


def label(key: str) -> str:
    """A key of the metrics as people write it: ``mosaic4.miou_permuted`` is "mosaic4: mIoU permuted"."""
    text = key.replace(".", ": ").replace("_", " ")
    for word, written in WORDS.items():
        text = re.sub(rf"\b{word}\b", written, text)
    return text
