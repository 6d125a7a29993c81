"""From tiny archives in the published layouts to folders that the readers open; nothing unverified gets there."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.download.catalogue import DataSet, load_catalogue
from fusionerlib.datasets.download.mat_masks import CONTEXT_NAMES
from fusionerlib.datasets.download.prepare import prepare
from fusionerlib.datasets.pascal import Pascal5i
from fusionerlib.errors import FusionerError
from tests.datasets.published import (
    FSS_COUNTS,
    PASCAL_COUNTS,
    VOC,
    context_files,
    described,
    fss_files,
    labels_of,
    pack,
    pascal_files,
    png,
)

Prepared = tuple[Path, list[Path], dict[str, DataSet]]


@pytest.fixture
def pascal(tmp_path: Path) -> Prepared:
    """PASCAL prepared in ``root`` from VOC's and SBD's archives."""
    archives = pack(pascal_files(), tmp_path / "mine")
    rows, root = described("pascal", archives, PASCAL_COUNTS), tmp_path / "root"
    prepare(["pascal"], root, archives=archives, quiet=True, catalogue=rows)
    return root, archives, rows


def tree(root: Path) -> dict[str, bytes]:
    """Every file under ``root`` but lock and manifests."""
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes() for name, file in files.items() if "manifest" not in name and name[:9] != ".fusioner"
    }


def manifest_of(root: Path, name: str = "pascal") -> dict:
    return json.loads((root / f"{name}.manifest.json").read_text())


def test_pascal_becomes_what_its_reader_takes(pascal: Prepared) -> None:
    root, _, _ = pascal
    training = Pascal5i(root, fold=1, split="train")
    assert {training[k].key for k in range(len(training))} == {"2007_000032", "2008_000008", "2008_000015"}
    scene = next(training[k] for k in range(len(training)) if training[k].key == "2007_000032")
    assert scene.names == ("aeroplane", "person")
    # Of an image with two masks VOC's counts, border and all; of the others SBD's.
    assert np.array_equal(scene.labels, labels_of(0, 1, 255, 2))
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    for key, official in VOC.items():
        with Image.open(folder / f"{key}.png") as mask:
            assert np.array_equal(np.array(mask), labels_of(0, 1, 255, 15) if official else labels_of(0, 6, 20)), key
            if not official:
                assert mask.mode == "P" and mask.convert("RGB").getpixel((0, 15)) == (0, 64, 128)  # VOC's tv monitor
    assert not (root / "benchmark_RELEASE").exists() and not (root / "VOCdevkit/VOC2012/Annotations").exists()


def test_the_manifest_lists_every_file_and_no_date(pascal: Prepared, tmp_path: Path) -> None:
    root, archives, rows = pascal
    manifest = manifest_of(root)
    assert manifest["files"] == {
        name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in tree(root).items()
    }
    assert manifest["counts"] == manifest["published"] == PASCAL_COUNTS and manifest["opened"] == 4
    assert [(archive["name"], archive["checked"]) for archive in manifest["archives"]] == [
        ("VOCtrainval_11-May-2012.tar", "size, md5, sha256"),
        ("benchmark.tgz", "size, md5"),
    ]
    for archive, file in zip(manifest["archives"], archives, strict=True):
        assert archive["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    prepare(["pascal"], tmp_path / "other", archives=archives, quiet=True, catalogue=rows)
    assert (tmp_path / "other/pascal.manifest.json").read_bytes() == (root / "pascal.manifest.json").read_bytes()


def test_a_second_run_only_looks(pascal: Prepared) -> None:
    root, archives, rows = pascal
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*.[jp][pn]g")}
    manifest = (root / "pascal.manifest.json").read_bytes()
    for file in archives:
        file.unlink()
    for thorough in (False, True):
        prepare(["pascal"], root, thorough=thorough, quiet=True, catalogue=rows)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.[jp][pn]g")} == before
    assert (root / "pascal.manifest.json").read_bytes() == manifest


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of the folder ``mine``."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mine"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_not_given_is_downloaded(tmp_path: Path, address: str, pascal: Prepared) -> None:
    root, archives, _ = pascal
    rows = described("pascal", archives, PASCAL_COUNTS, address=address)
    prepare(["pascal"], tmp_path / "new", archives=archives[:1], quiet=True, catalogue=rows)
    downloaded = tmp_path / "new" / "downloads"
    assert [file.name for file in downloaded.iterdir()] == ["benchmark.tgz"]
    shutil.rmtree(downloaded)
    assert tree(tmp_path / "new") == tree(root)


def test_images_are_not_downloaded_before_their_labels_are(tmp_path: Path, address: str) -> None:
    archives = pack(context_files(dict(enumerate(CONTEXT_NAMES, start=1))), tmp_path / "mine")
    counts = {"images": 3, "masks": 2, "459-class masks": 2}
    rows = described("context", archives, counts, address=address)
    archives[1].rename(tmp_path / "away")
    with pytest.raises(FusionerError, match=r"trainval.tar.gz could not be downloaded"):
        prepare(["context"], tmp_path / "root", quiet=True, catalogue=rows)
    assert not list((tmp_path / "root" / "downloads").glob("VOC*"))
    (tmp_path / "away").rename(archives[1])
    assert prepare(["context"], tmp_path / "root", quiet=True, catalogue=rows)[0].counts["masks"] == 2


def test_files_that_lie_unpacked_are_linked_and_left_alone(pascal: Prepared, tmp_path: Path) -> None:
    theirs, archives, rows = pascal
    voc = theirs / "VOCdevkit" / "VOC2012"
    (voc / "SegmentationClassAug").rename(theirs / "SegmentationClassAug")  # HSNet's layout
    before = tree(theirs)
    root = tmp_path / "linked"
    [manifest] = prepare(["pascal"], root, link=theirs, quiet=True, catalogue=rows)
    assert tree(theirs) == before
    folder = root / "VOCdevkit" / "VOC2012"
    assert os.readlink(folder / "JPEGImages") == str(voc / "JPEGImages") == manifest.linked["images"]
    assert os.readlink(folder / "SegmentationClassAug") == str(theirs / "SegmentationClassAug")
    assert len(Pascal5i(root, fold=0, split="val").pairs) == 1
    prepare(["pascal"], root, thorough=True, quiet=True, catalogue=rows)
    # Without ready-made masks they are built from VOC's, which lie there, and SBD's archive.
    (theirs / "SegmentationClassAug").rename(tmp_path / "away")
    with pytest.raises(FusionerError, match=r"has no VOC masks of PASCAL.* looked for \*\.png at .*SegmentationClass,"):
        prepare(["pascal"], tmp_path / "none", link=theirs, archives=archives[1:], quiet=True, catalogue=rows)
    assert not list((tmp_path / "none").rglob("*.jpg")), "links come after verification"
    (voc / "SegmentationClass").mkdir()
    shutil.copy(tmp_path / "away" / "2007_000032.png", voc / "SegmentationClass")
    prepare(["pascal"], tmp_path / "built", link=theirs, archives=archives[1:], quiet=True, catalogue=rows)
    assert (tmp_path / "built/VOCdevkit/VOC2012/JPEGImages").is_symlink()
    assert len(list((tmp_path / "built/VOCdevkit/VOC2012/SegmentationClassAug").iterdir())) == 4


@pytest.mark.parametrize(
    ("change", "told", "thorough"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "2007_000033.jpg has .* bytes instead of", False),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), "2007_000033.jpg is altered", True),
        (lambda file: file.unlink(), "2007_000033.jpg is missing", False),
        (lambda file: shutil.copy(file, file.with_name("new.jpg")), "new.jpg is new", False),
    ],
)
def test_what_changed_since_is_named_and_mended_as_told(pascal: Prepared, change, told: str, thorough: bool) -> None:
    root, archives, rows = pascal
    images = root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    before = tree(root)
    change(images / "2007_000033.jpg")
    with pytest.raises(FusionerError, match=f"{told}.*delete the folder and run the command again"):
        prepare(["pascal"], root, thorough=thorough, quiet=True, catalogue=rows)
    shutil.rmtree(images)
    prepare(["pascal"], root, archives=archives, quiet=True, catalogue=rows)
    assert tree(root) == before and len(manifest_of(root)["archives"]) == 2


def test_errors_name_the_file_and_the_remedy_and_leave_the_root_empty(tmp_path: Path) -> None:
    def told(name: str, **how) -> str:
        with pytest.raises(FusionerError) as caught:
            prepare([name], tmp_path / "root", quiet=True, **how)
        assert not list((tmp_path / "root").glob("[!.]*"))
        return str(caught.value)

    (tmp_path / "root").mkdir()
    [stranger] = pack({"voc.tar": {}}, tmp_path)
    [voc, _] = pack(pascal_files(), tmp_path)
    assert f"data set 'coco' is unknown: choose one of {', '.join(load_catalogue())}" == told("coco")
    assert "Google Drive" in told("fss") and told("fss").endswith("then pass --from fewshot_data.zip")
    assert f"{stranger} is no file of pascal: expected VOCtrainval_11-May-2012.tar" in told(
        "pascal", archives=[stranger]
    )
    assert f"{voc} has {voc.stat().st_size} bytes, the published file 1999639040: it is cut short" in told(
        "pascal", archives=[voc]
    )
    assert f"{tmp_path} has no training images of ADE20K" in told("ade", link=tmp_path)


def test_nothing_unverified_gets_to_the_root(tmp_path: Path) -> None:
    files = fss_files()
    files["fewshot_data.zip"]["fewshot_data/fewshot_data/yurt/3.png"] = png(labels_of(0, 255, width=9))
    archives = pack(files, tmp_path / "mine")
    for counts, wrong in (({"images": 21}, "published are 21"), ({}, "yurt/3.png is 9x16 pixels")):
        rows = described("fss", archives, {**FSS_COUNTS, **counts})
        with pytest.raises(FusionerError, match=wrong):
            prepare(["fss"], tmp_path / "root", archives=archives, quiet=True, catalogue=rows)
        assert {entry.name for entry in (tmp_path / "root").iterdir()} == {".fusioner-data.lock"}
