"""COCO files and pictures for the tests of this folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 30
Json = dict[str, Any]


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """The polygon of columns left..right - 1 and rows top..bottom - 1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def filled(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """The same rectangle as a mask."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, counted one pixel at a time, down the columns, zeros first."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def packed(counts: list[int]) -> str:
    """Run lengths as the format's text: differences from the fourth on, five bits a character, lowest first."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            group = value & 0x1F
            value >>= 5
            more = value not in (0, -1) or (value == -1) != bool(group & 0x10)
            text += chr((group | 0x20 if more else group) + 48)
    return text


def rle(mask: np.ndarray, *, text: bool = False) -> Json:
    """A mask as a ``segmentation`` of run lengths, as text if asked."""
    counts = run_lengths(mask)
    return {"size": list(mask.shape), "counts": packed(counts) if text else counts}


def thing(image: Any, category: Any, shape: Any, **more: Any) -> Json:
    """An annotation, with the bounding box and area that exports have."""
    box = {"bbox": [1, 1, 3, 3], "area": 9}
    return {"image_id": image, "category_id": category, "segmentation": shape, "iscrowd": 0, **box, **more}


def written(
    root: Path,
    things: list[Json],
    *,
    names: list[Json] | None = None,
    rows: list[Json] | None = None,
    pictures: int = 2,
    file: str = "annotations/instances.json",
) -> Path:
    """A folder of one's own: ``images/0001.png`` on, and a COCO file whose annotations are numbered from 1."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, pictures + 1):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number:04d}.png")
    listed = [{"id": n, "file_name": f"{n:04d}.png", "height": HEIGHT, "width": WIDTH} for n in range(1, pictures + 1)]
    content = {
        "images": listed if rows is None else rows,
        "annotations": [{"id": number, **item} for number, item in enumerate(things, start=1)],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "fibre"}] if names is None else names,
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content), encoding="utf-8")
    return root
