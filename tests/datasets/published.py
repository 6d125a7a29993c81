"""Tiny data sets, packed as their publishers pack them, and the rows of ``catalogue.json`` that describe them."""

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fusionerlib.datasets.download.catalogue import DataSet, load_catalogue

RNG = np.random.default_rng(3)
VOC = {"2007_000032": True, "2007_000033": False, "2008_000008": True, "2008_000015": False}
"""Images of the published lists of PASCAL-5i, and whether VOC itself has a mask of them."""
Files = dict[str, bytes]


def jpg(width: int = 24, height: int = 16) -> bytes:
    return _encoded(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8), "JPEG")


def png(labels: np.ndarray, mode: str = "L") -> bytes:
    return _encoded(labels, "PNG") if mode == "L" else _encoded(np.repeat(labels[..., None], 3, -1), "PNG")


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def mat(**content: Any) -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()


def sbd_mat(labels: np.ndarray) -> bytes:
    """As SBD writes it: a struct with the map among other things."""
    return mat(GTcls={"Boundaries": np.zeros((20, 1), object), "Segmentation": labels, "CategoriesPresent": [1, 2]})


def labels_of(*values: int, width: int = 24, height: int = 16) -> np.ndarray:
    """Rows of each of ``values``, in turn."""
    rows = np.array(values, dtype=np.uint8)[np.arange(height) * len(values) // height]
    return np.repeat(rows[:, None], width, 1)


def pascal_files() -> dict[str, Files]:
    """VOC's tar, SBD's tgz: SBD has a mask of every image, VOC of two, with a border of 255 and other classes."""
    voc: Files = {"VOCdevkit/VOC2012/Annotations/x.xml": b"<x/>"}
    voc |= {f"VOCdevkit/VOC2012/JPEGImages/{key}.jpg": jpg() for key in VOC}
    for key in (key for key, official in VOC.items() if official):
        voc[f"VOCdevkit/VOC2012/SegmentationClass/{key}.png"] = png(labels_of(0, 1, 255, 15))
    for name in ("train", "trainval", "val"):
        voc[f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt"] = b"2007_000032\n"
    sbd = {f"benchmark_RELEASE/dataset/cls/{key}.mat": sbd_mat(labels_of(0, 6, 20)) for key in VOC}
    sbd |= {"benchmark_RELEASE/dataset/img/x.jpg": b"unwanted", "benchmark_RELEASE/README.txt": b"Read me"}
    return {"VOCtrainval_11-May-2012.tar": voc, "benchmark.tgz": sbd}


PASCAL_COUNTS = {"images": 4, "masks": 4, "lists": 3}


def fss_files(classes: tuple[str, ...] = ("abacus", "yurt")) -> dict[str, Files]:
    files: Files = {}
    for name in classes:
        for number in range(1, 11):
            files[f"fewshot_data/fewshot_data/{name}/{number}.jpg"] = jpg()
            files[f"fewshot_data/fewshot_data/{name}/{number}.png"] = png(labels_of(0, 255), "RGB")
    files["fewshot_data/fewshot_data/yurt/10.jpeg"] = b"a stray file, as the archive has some"
    return {"fewshot_data.zip": files}


FSS_COUNTS = {"images": 20, "masks": 20}


def coco_files(year: int) -> dict[str, Files]:
    """Both splits: three images in ``train``, one in ``val``; two objects an image, one a crowd."""
    packed: dict[str, Files] = {f"annotations_trainval{year}.zip": {"annotations/captions_val.json": b"{}"}}
    for split, count in (("train", 3), ("val", 1)):
        rows = [{"id": 7 + k, "file_name": f"{7 + k:012}.jpg", "width": 24, "height": 16} for k in range(count)]
        box = {"segmentation": [[2, 2, 10, 2, 10, 8, 2, 8]], "iscrowd": 0, "area": 48, "bbox": [2, 2, 8, 6]}
        crowd = {"segmentation": {"counts": [100, 50, 234], "size": [16, 24]}, "iscrowd": 1, "area": 50}
        objects = [
            {"id": 10 * k + place, "image_id": row["id"], "category_id": 18 - place, **shape}
            for k, row in enumerate(rows)
            for place, shape in enumerate((box, crowd))
        ]
        names = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
        given = {"images": rows, "annotations": objects, "categories": names}
        packed[f"annotations_trainval{year}.zip"][f"annotations/instances_{split}{year}.json"] = json.dumps(
            given
        ).encode()
        packed[f"{split}{year}.zip"] = {f"{split}{year}/{row['file_name']}": jpg() for row in rows}
    return packed


def ade_files() -> dict[str, Files]:
    files: Files = {"ADEChallengeData2016/objectInfo150.txt": b"Idx Name\n"}
    for split, count in (("training", 2), ("validation", 1)):
        for number in range(1, count + 1):
            stem = f"ADE_{split[:3]}_{number:08}"
            files[f"ADEChallengeData2016/images/{split}/{stem}.jpg"] = jpg()
            files[f"ADEChallengeData2016/annotations/{split}/{stem}.png"] = png(labels_of(0, 1, 150))
    return {"ADEChallengeData2016.zip": files}


def context_files(names: dict[int, str]) -> dict[str, Files]:
    """VOC 2010's tar, and the 459-class maps: every image shows all of ``names``'s ids in rows of their own."""
    keys = ("2008_000002", "2008_000003")
    voc: Files = {f"VOCdevkit/VOC2010/JPEGImages/{key}.jpg": jpg(24, len(names)) for key in (*keys, "2008_000004")}
    for place, split in enumerate(("train", "val")):
        voc[f"VOCdevkit/VOC2010/ImageSets/Main/{split}.txt"] = f"{keys[place]}\n".encode()
    raw = np.repeat(np.array(sorted(names), dtype=np.uint16)[:, None], 24, 1)
    context = {f"trainval/{key}.mat": mat(LabelMap=raw) for key in keys}
    context["labels.txt"] = "\n".join(f"{number}: {name}" for number, name in names.items()).encode()
    return {"VOCtrainval_03-May-2010.tar": voc, "trainval.tar.gz": context}


def pack(packed: dict[str, Files], folder: Path) -> list[Path]:
    """The archives as files in ``folder``, each of the kind that its name says."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, files in packed.items():
        if name.endswith(".zip"):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for path, content in files.items():
                    archive.writestr(path, content)
        else:
            with tarfile.open(folder / name, "w" if name.endswith(".tar") else "w:gz") as archive:
                for path, content in files.items():
                    info = tarfile.TarInfo(path)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return [folder / name for name in packed]


def described(
    name: str, archives: list[Path], counts: dict[str, int], *, address: str = "", objects: int = 0
) -> dict[str, DataSet]:
    """The row of ``name``, with the sizes and sums of ``archives``, other counts, and ``address`` before each file."""
    data, by_name = load_catalogue()[name], {file.name: file for file in archives}
    files = []
    for source in data.files:
        known: dict[str, Any] = {"size": None, "digests": {}, "urls": ()}
        if source.name in by_name:
            content = by_name[source.name].read_bytes()
            sums = {kind: hashlib.new(kind, content).hexdigest() for kind in source.digests}
            known = {"size": len(content), "digests": sums, "urls": (f"{address}/{source.name}",) if address else ()}
        files.append(source.model_copy(update=known))
    parts = {key: part.model_copy(update={"count": counts.get(key, part.count)}) for key, part in data.parts.items()}
    instances = data.instances and data.instances.model_copy(update={"objects": objects, "categories": 2})
    return {name: data.model_copy(update={"files": tuple(files), "parts": parts, "instances": instances})}
