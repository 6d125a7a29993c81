"""What each data set becomes from its archives, as its reader sees it; the catalogue itself."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.all_classes import read_set
from fusionerlib.datasets.download.catalogue import load_catalogue
from fusionerlib.datasets.download.mat_masks import CONTEXT_NAMES
from fusionerlib.datasets.download.prepare import prepare
from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.pascal import Pascal5i
from fusionerlib.errors import FusionerError
from tests.datasets.published import (
    FSS_COUNTS,
    PASCAL_COUNTS,
    VOC,
    ade_files,
    coco_files,
    context_files,
    described,
    fss_files,
    labels_of,
    pack,
    pascal_files,
    png,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_ready_made_masks_are_taken_where_they_are_given(tmp_path: Path) -> None:
    files = pascal_files()
    ready = {f"SegmentationClassAug/{key}.png": png(labels_of(0, 3)) for key in VOC}
    files["SegmentationClassAug.zip"] = ready | {
        "__MACOSX/SegmentationClassAug/._x.png": b"",
        "SegmentationClassAug/._x.png": b"",
    }
    del files["benchmark.tgz"]
    archives = pack(files, tmp_path / "mine")
    prepare(
        ["pascal"],
        tmp_path / "root",
        archives=archives,
        quiet=True,
        catalogue=described("pascal", archives, PASCAL_COUNTS),
    )
    home = tmp_path / "root" / "VOCdevkit" / "VOC2012"
    assert {f"SegmentationClassAug/{file.name}": file.read_bytes() for file in home.glob("*Aug/*")} == ready


def test_fss_is_unpacked_into_the_root_even_after_an_interruption(tmp_path: Path) -> None:
    archives = pack(fss_files(), tmp_path / "mine")
    rows, root = described("fss", archives, FSS_COUNTS), tmp_path / "root"
    # Killed while the folders were moved to their place: one is there, and what it was moved from.
    (root / "abacus").mkdir(parents=True)
    (root / "abacus" / "1.jpg").write_bytes(b"half")
    (root / ".fss.part" / "yurt").mkdir(parents=True)
    prepare(["fss"], root, archives=archives, quiet=True, catalogue=rows)
    scenes = FSSFolder(root)
    assert len(scenes) == 20 and {scenes.names(k)[0] for k in range(20)} == {"abacus", "yurt"}
    assert np.array_equal(scenes[3].labels, labels_of(0, 1))
    assert not (root / ".fss.part").exists() and not (root / "downloads").exists()
    prepare(["fss"], tmp_path / "linked", link=root, quiet=True, catalogue=rows)
    assert (tmp_path / "linked" / "yurt").is_symlink() and len(FSSFolder(tmp_path / "linked")) == 20


def test_coco_is_what_pycocotools_reads(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is in the extra `data`")
    archives = pack(coco_files(2017), tmp_path / "mine")
    rows = described("coco-train2017", archives, {"images": 3}, objects=6)
    rows |= described("coco-val2017", archives, {"images": 1}, objects=2)
    manifests = prepare(list(rows), tmp_path / "root", archives=archives, quiet=True, catalogue=rows)
    assert [manifest.counts for manifest in manifests] == [
        {"images": 3, "instances": 1, "objects": 6},
        {"images": 1, "instances": 1, "objects": 2},
    ]
    for split, count in (("train", 3), ("val", 1)):
        read = coco.COCO(str(tmp_path / "root" / "annotations" / f"instances_{split}2017.json"))
        assert len(read.imgs) == count
        for image in read.loadImgs(read.getImgIds()):
            with Image.open(tmp_path / "root" / f"{split}2017" / image["file_name"]) as opened:
                sizes = {read.annToMask(item).shape[::-1] for item in read.imgToAnns[image["id"]]}
                assert sizes == {opened.size}
    assert not (tmp_path / "root" / "annotations" / "captions_val.json").exists()


def test_ade20k_and_pascal_context_are_what_their_reader_takes(tmp_path: Path) -> None:
    archives = pack(ade_files(), tmp_path / "mine")
    counts = {
        f"{split} {kind}": 2 if split == "training" else 1
        for split in ("training", "validation")
        for kind in ("images", "masks")
    }
    prepare(["ade"], tmp_path / "ade", archives=archives, quiet=True, catalogue=described("ade", archives, counts))
    assert len(read_set("ade20k-150", tmp_path / "ade", split="train")) == 2
    assert np.array_equal(read_set("ade20k-150", tmp_path / "ade")[0].labels, labels_of(255, 1, 2))
    # As in labels.txt the ids of the 59 are spread among others; "tvmonitor" is written in two words.
    names = {1: "accordion", 440: "zebra"} | {3 + 7 * k: name for k, name in enumerate(reversed(CONTEXT_NAMES))}
    names = {number: name.replace("tvmonitor", "tv monitor") for number, name in names.items()}
    archives = pack(context_files(names), tmp_path / "theirs")
    rows = described("context", archives, {"images": 3, "masks": 2})
    prepare(["context"], tmp_path / "context", archives=archives, quiet=True, catalogue=rows)
    scene = read_set("pascal-context-60", tmp_path / "context", split="val")[0]
    assert scene.key == "2008_000003"
    for row, number in enumerate(sorted(names)):
        name = names[number].replace(" ", "")
        expected = CONTEXT_NAMES.index(name) + 1 if name in CONTEXT_NAMES else 0
        assert (scene.labels[row] == expected).all(), name


def test_the_table_is_coherent_and_every_data_set_has_a_card() -> None:
    rows = load_catalogue()
    cards = {file.stem for file in (Path(__file__).parents[2] / "docs" / "data").glob("*.md")}
    assert {name.split("-")[0] for name in rows} <= cards
    lengths = {"md5": 32, "sha256": 64}
    for name, data in rows.items():
        for source in data.files:
            assert all(len(bytes.fromhex(value)) * 2 == lengths[kind] for kind, value in source.digests.items())
            assert bool(source.digests) == bool(source.known_from), source.name
            assert not source.urls or source.digests, f"{name}: a download of {source.name} could not be checked"


@pytest.mark.skipif(not (SHARED / "voc-mini").is_dir(), reason="no folder ../shared/data/voc-mini")
def test_a_part_of_the_real_data_is_linked_and_verified(tmp_path: Path) -> None:
    link = SHARED / "voc-mini"
    with pytest.raises(FusionerError, match=r"has 2476 files \*\.jpg \(images\), published are 17125.*--partial"):
        prepare(["pascal"], tmp_path, link=link, quiet=True)
    [manifest] = prepare(["pascal"], tmp_path, link=link, partial=True, quiet=True)
    assert manifest.counts == {"images": 2476, "masks": 2476} and 150 <= manifest.opened <= 200
    with_published_list = Pascal5i(link, fold=3, split="val")
    assert Pascal5i(tmp_path, fold=3, split="val").pairs == with_published_list.pairs
