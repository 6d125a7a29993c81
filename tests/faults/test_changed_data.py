"""Data that changed on disk is noticed: by every reader, whatever stayed the same, and in everything made from it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib import digests
from fusionerlib.datasets.all_classes import pascal_validation_images, read_set
from fusionerlib.datasets.coco import Coco20i, CocoInstances
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.mosaics import mosaics_of
from fusionerlib.datasets.pascal import Pascal5i
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.transforms import Views
from fusionerlib.digests import content_digests
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.training.batch_sources import StoredBatchSource
from fusionerlib.training.loop import train
from tests.launched import Squares, config

SIDE = 64
Read = Callable[[], Scenes]


def mask(file: Path, number: int, other: int = 0) -> Path:
    """A mask, left ``number`` and right ``other``, without compression: other numbers give a file of the same size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = np.full((SIDE, SIDE), number, dtype=np.uint8)
    raw[:, SIDE // 2 :] = other
    Image.fromarray(raw).save(file, compress_level=0)
    return file


def picture(file: Path, colour: int, *, kind: str = "BMP") -> Path:
    """A picture whose size on disk does not depend on its colour."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (colour, 90, 255 - colour)).save(file, kind)
    return file


def own_folder(root: Path) -> tuple[Read, Path, Path]:
    for place in range(6):
        picture(root / "images" / f"{place}.bmp", 40 * place)
        mask(root / "masks" / f"{place}.png", 1, 2)
    (root / "names.txt").write_text("cat\ndog\n")
    return lambda: read_folder(root), root / "images/1.bmp", root / "masks/1.png"


def pascal(root: Path) -> tuple[Read, Path, Path]:
    voc = root / "VOCdevkit/VOC2012"
    image = picture(voc / "JPEGImages/2007_000452.jpg", 40)
    return lambda: Pascal5i(root, fold=1, split="val"), image, mask(voc / "SegmentationClassAug/2007_000452.png", 9)


def pascal_train(root: Path) -> tuple[Read, Path, Path]:
    voc = root / "VOCdevkit/VOC2012"
    image = picture(voc / "JPEGImages/2007_000720.jpg", 40)
    return lambda: Pascal5i(root, fold=1, split="train"), image, mask(voc / "SegmentationClassAug/2007_000720.png", 12)


def pascal_all(root: Path) -> tuple[Read, Path, Path]:
    _, image, labels = pascal(root)
    return lambda: pascal_validation_images(root), image, labels


def ade(root: Path) -> tuple[Read, Path, Path]:
    image = picture(root / "images/validation/a.jpg", 40)
    return lambda: read_set("ade20k-150", root), image, mask(root / "annotations/validation/a.png", 12)


def fss(root: Path) -> tuple[Read, Path, Path]:
    for place in range(4):
        picture(root / f"thing{place}/1.jpg", 40 * place)
        mask(root / f"thing{place}/1.png", 255)
    return lambda: FSSFolder(root), root / "thing1/1.jpg", root / "thing1/1.png"


def fss_mosaics(root: Path) -> tuple[Read, Path, Path]:
    read, image, labels = fss(root)
    return lambda: mosaics_of(read(), size=SIDE, count=2, seed=0), image, labels


def coco(root: Path) -> tuple[Read, Path, Path]:
    image = picture(root / "images/1.bmp", 40)
    shape = [[2, 2, 40, 2, 40, 40, 2, 40]]
    things = [{"image_id": 1, "category_id": 1, "segmentation": shape, "iscrowd": 0}]
    images = [{"id": 1, "file_name": "1.bmp", "height": SIDE, "width": SIDE}]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    file = root / "annotations/instances.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"images": images, "annotations": things, "categories": names}))
    return lambda: CocoInstances(root), image, file


def coco20i(root: Path) -> tuple[Read, Path, Path]:
    image = picture(root / "val2014/COCO_val2014_000000000074.jpg", 40)
    labels = mask(root / "annotations/val2014/COCO_val2014_000000000074.png", 17)
    return lambda: Coco20i(root, fold=0, split="val", present_only=True), image, labels


def coco20i_painted(root: Path) -> tuple[Read, Path, Path]:
    _, image, file = coco(root)
    target = root / "val2014/COCO_val2014_000000000074.jpg"
    target.parent.mkdir()
    image.rename(target)
    content = json.loads(file.read_text())
    content["images"][0] |= {"id": 74, "file_name": target.name}
    content["annotations"][0]["image_id"] = 74
    file.write_text(json.dumps(content))
    return lambda: Coco20i(root, fold=0, split="val", present_only=True), target, file


READERS = [own_folder, pascal, pascal_train, pascal_all, ade, fss, fss_mosaics, coco, coco20i, coco20i_painted]


def changed(file: Path) -> bytes:
    """What ``file`` could hold instead, of the same length: a mask renumbered, another picture, another polygon."""
    content = file.read_bytes()
    if file.suffix == ".json":
        return content.replace(b"[2, 2, 40, 2,", b"[3, 2, 40, 2,")
    with Image.open(file) as opened:
        raw, kind = np.array(opened), opened.format
    part = file.with_suffix(".other")
    values = {12: 14, 9: 10, 17: 19, 255: 200, 1: 2, 2: 1, 0: 0}
    if raw.ndim == 2:
        raw = np.vectorize(values.__getitem__)(raw).astype(np.uint8)
        raw[0, 0] = 0
        Image.fromarray(raw).save(part, kind, compress_level=0)
    else:
        Image.fromarray(255 - raw).save(part, kind)
    other = part.read_bytes()
    part.unlink()
    assert other != content and len(other) == len(content)
    return other


def overwrite(file: Path, content: bytes) -> None:
    """In place: the inode stays."""
    file.write_bytes(content)


def overwrite_and_set_the_time_back(file: Path, content: bytes) -> None:
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_ino == before.st_ino


def copy_with_its_time(file: Path, content: bytes) -> None:
    """``cp -p``, then ``mv``: size and time of modification stay, the inode is another one."""
    other = file.with_name("other")
    other.write_bytes(content)
    before = file.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy = file.with_name("copy")
    shutil.copy2(other, copy)
    other.unlink()
    copy.replace(file)
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_ino != before.st_ino


WAYS = [overwrite, overwrite_and_set_the_time_back, copy_with_its_time]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of digests that takes every file, however young, so that the state of a file alone decides."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -(10**12))
    monkeypatch.setattr(digests, "_known", {})
    return tmp_path / "cache/fusioner/digests"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", READERS)
def test_every_reader_notices_a_file_of_equal_size_that_holds_something_else(
    made: Callable[[Path], tuple[Read, Path, Path]], way: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    read, *files = made(root)
    seen = {read().fingerprint}
    assert {read().fingerprint} == seen
    for file in files:
        kept = file.read_bytes()
        way(file, changed(file))
        found = read().fingerprint
        assert found not in seen, f"{file} by {way.__name__}"
        seen.add(found)
        way(file, kept)
    assert read().fingerprint in seen, "what is as it was is known again"


def test_a_file_that_was_written_a_moment_ago_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes within one tick of the file system's clock leave size, times and inode alike."""
    monkeypatch.setattr(digests, "SETTLED", 2 * 10**9)
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    state = digests._state(str(file))
    before = content_digests([file])
    monkeypatch.setattr(digests, "_state", lambda path: state)
    file.write_bytes(b"two")
    assert content_digests([file]) != before


def test_the_cache_is_read_by_another_process_and_a_damaged_one_costs_time_only(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [mask(tmp_path / "data" / f"{place}.png", place) for place in range(5)]
    told = content_digests(files)
    assert len(set(told)) == 5
    (kept,) = own_cache.glob("*.json")
    whole = kept.read_bytes()
    read: list[str] = []
    plain = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: (read.append(path), plain(path))[1])

    def again() -> int:
        monkeypatch.setattr(digests, "_known", {})
        read.clear()
        assert content_digests(files) == told
        return len(read)

    assert again() == 0
    for place in range(0, len(whole), 7):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert again() in (0, 5)
    kept.write_bytes(whole[:-9])
    assert again() == 5
    kept.unlink()
    kept.mkdir()  # it can't be written
    assert again() == 5
    files[2].unlink()
    with pytest.raises(FusionerError, match=r"2\.png can't be read \(No such file"):
        content_digests(files)


def test_features_labels_training_and_its_running_checkpoint_follow_the_files(tmp_path: Path) -> None:
    """The old tokens, the old labels or the old weights must not come back under the new data."""
    root = tmp_path / "data"
    root.mkdir()
    read, image, labels = own_folder(root)

    def stored() -> StoredBatchSource:
        scenes = Views(read(), views=1, seed=0, size=SIDE)
        return StoredBatchSource(FeatureStore(tmp_path / "store", encoder=Squares()).add(scenes, quiet=True))

    def trained() -> None:
        cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
        train(run=config(), source=stored(), text_cache=cache, directory=tmp_path / "training", quiet=True)

    before = stored().scenes[1]
    trained()
    for file, what in ((labels, "labels"), (image, "tokens")):
        copy_with_its_time(file, changed(file))
        now = stored().scenes[1]
        assert not (getattr(now, what) == getattr(before, what)).all(), what
        with pytest.raises(FusionerError, match=r"checkpoint of another run \(scenes was"):
            trained()
    direct = read()[1]
    assert (stored().scenes[1].labels.numpy() == direct.labels).all()
