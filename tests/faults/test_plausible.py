"""The check of a folder: exact counts, every problem in one pass, and what stops a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib import FusionerError
from fusionerlib.cli.app import app
from fusionerlib.datasets.check import check_folder
from tests.faults.coco_files import HEIGHT, WIDTH, box, filled, thing, written
from tests.faults.test_lists_of_names import folder_of

AREA = HEIGHT * WIDTH


def masks(root: Path, raws: dict[str, Any], names: str = "cat\ndog\n", val: str = "") -> Path:
    for number, (key, raw) in enumerate(raws.items()):
        folder_of(root, key, np.asarray(raw, dtype=np.uint8))
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(root / f"images/{key}.png")
    (root / "names.txt").write_text(names)
    if val:
        (root / "val.txt").write_text(val)
    return root


def plain(**raws: Any) -> dict[str, Any]:
    """Four pictures that have no problem, and others."""
    good = 1 * filled(0, 0, 10, 10) + 2 * filled(12, 0, 20, 10)
    return {"a": good, "b": good, "c": good, "v": good, **raws}


def check(root: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "check", str(root), "--quiet", *options])
    return result.exit_code, result.output


def test_the_table_has_the_pixels_that_the_masks_have(tmp_path: Path) -> None:
    ignored = np.where(filled(0, 0, WIDTH, 5), 255, filled(0, 5, 6, 9))
    root = masks(tmp_path, plain(d=ignored), names="cat\ndog\nbird\n", val="v")
    found = check_folder(root, quiet=True)
    train, val = found.parts["train"], found.parts["val"]
    assert (train.pictures, val.pictures) == (4, 1) and found.names == ("cat", "dog", "bird")
    assert train.pixels == {"cat": 3 * 100 + 24, "dog": 3 * 80} and val.pixels == {"cat": 100, "dog": 80}
    assert train.shown == {"cat": 4, "dog": 3} and (train.total, train.ignored) == (4 * AREA, 5 * WIDTH)
    assert train.background == 4 * AREA - 324 - 240 - 150
    assert found.fatal == [] and found.warned == ["names are never drawn: 1 (bird)"]
    code, text = check(root)
    assert code == 0 and "train: 4 pictures, background 70.2%, ignored 6.2%" in text
    assert [line.split() for line in text.splitlines() if line.startswith("cat")] == [["cat", "4", "324", "1", "100"]]
    assert check(root, "--strict")[0] == 1


def test_a_coco_file_is_counted_alike(tmp_path: Path) -> None:
    line = thing(1, 1, [[1, 1, 1, 1, 1, 1]])
    hidden = [thing(2, 2, box(0, 0, 2, 2)), thing(2, 1, box(0, 0, 2, 2))]
    things = [thing(n, 1, box(0, 0, 4, 4)) for n in (1, 2, 3, 4, 5)] + [thing(1, 1, None), line, *hidden]
    root = written(tmp_path, things, pictures=5, names=[{"id": 1, "name": "cell"}, {"id": 2, "name": "big_fibre"}])
    (root / "val.txt").write_text("0005")
    found = check_folder(root, quiet=True)
    assert found.parts["train"].pixels == {"cell": 4 * 16, "big_fibre": 0} and found.fatal == []
    told = " | ".join(found.warned)
    for part in (
        "objects left out, their segmentation can't be read: 1 (image 0001.png, annotation 6: it is null)",
        "train objects have no pixel: 2 (cell in 0001.png; big_fibre in 2, hidden by others or empty)",
        "names are never drawn: 1 (big_fibre)",
        "names are no words as in English, which is what a text encoder reads: 1 (big_fibre)",
    ):
        assert part in told


BIRD = {"d": 3 * filled(0, 0, 9, 9)}
IGNORED = np.where(filled(0, 0, 30, 12), 255, filled(0, 12, 9, 16))
THREE = "cat\ndog\nbird"
WARNED: dict[str, tuple[dict[str, Any], str, str]] = {
    "never drawn": ({}, THREE, "names are never drawn: 1 (bird)"),
    "few pictures": (BIRD, THREE, "fewer than 3 training pictures: 1 (bird (1))"),
    "not validated": (BIRD, THREE, "not in the validation pictures: 1 (bird)"),
    "no words": ({}, "class 1\nclass_2", "names are no words as in English"),
    "ignored": (dict.fromkeys("abcdef", IGNORED), "cat", "to more than half: 1 (train, 60.0%)"),
    "background": (dict.fromkeys("abcdef", filled(0, 0, 2, 2)), "cat", "background to more than 98%: 1 (train, 99.3%)"),
}


@pytest.mark.parametrize(("raws", "names", "line"), WARNED.values(), ids=WARNED)
def test_what_is_odd_is_warned_of(tmp_path: Path, raws: Any, names: str, line: str) -> None:
    good = {"v": filled(0, 0, 9, 9)} if names == "cat" else plain()
    root = masks(tmp_path, {**good, **raws}, names=names, val="v")
    code, text = check(root)
    assert code == 0 and "warning: " in text and line in text
    assert check(root, "--strict")[0] == 1


def test_a_copy_in_the_validation_pictures_is_warned_of(tmp_path: Path) -> None:
    root = masks(tmp_path, plain(), val="v")
    (root / "images/v.png").write_bytes((root / "images/b.png").read_bytes())
    assert "validation pictures have the content of a training picture: 1 (v.png (b.png))" in check(root)[1]


def test_all_problems_come_in_one_pass(tmp_path: Path) -> None:
    """Five unlike faults, each of which stops a reading by itself."""
    root = masks(tmp_path, plain(d=filled(0, 0, 3, 3), e=filled(0, 0, 3, 3)), names="cat\ncat\n", val="v\nnowhere.png")
    (root / "masks/e.png").unlink()
    (root / "images/d.jpg").write_bytes((root / "images/d.png").read_bytes())
    code, text = check(root)
    assert code == 1
    for part in ("has the name 'cat' twice", "1 images of val.txt are not in", "d.png would share one mask"):
        assert part in text, part
    (root / "images/d.jpg").unlink()
    assert "1 of 6 images have no mask, the first is" in check(root)[1]
    (root / "names.txt").write_text("cat\ndog")
    (root / "val.txt").write_text("v")
    text = check(root)[1]
    assert text.count("images have no mask, the first is") == 1, "of the folder, not of its splits again"
    assert "never drawn" not in text, "not every split was read"
    (root / "images/e.png").unlink()
    Image.new("L", (WIDTH + 1, HEIGHT), 1).save(root / "masks/a.png")
    Image.new("L", (WIDTH, HEIGHT), 9).save(root / "masks/b.png")
    (root / "images/c.png").write_bytes(b"\x89PNG, cut")
    code, text = check(root)
    assert code == 1 and "stops: train pictures can't be used: 3 (" in text
    for part in ("a.png is (31, 20) pixels", "b.png holds 9: not in", "c.png' can't be read"):
        assert part in text, part


@pytest.mark.parametrize(
    ("raw", "names", "line"),
    [
        (np.zeros((HEIGHT, WIDTH)), "cat", "2 (train; val)"),
        (np.full((HEIGHT, WIDTH), 255), "cat\n255 ignore", "ignored (255) to 99% or more: nothing is left"),
    ],
)
def test_what_is_meaningless_stops_before_a_training(tmp_path: Path, raw: Any, names: str, line: str) -> None:
    root = masks(tmp_path / "data", {key: raw for key in "abcdef"}, names=names.replace("cat", "1 cat"))
    code, text = check(root)
    assert code == 1 and "stops: splits have no pixel with a name" in text and line in text
    out = tmp_path / "run"
    arguments = ["train", "-o", str(out), "--set", "dataset=folder", "--set", f"root={root}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "splits have no pixel with a name" in result.output
    assert not [file for file in out.rglob("*") if file.is_file()]


def test_the_check_is_shown_before_a_training_and_strict_stops(tmp_path: Path) -> None:
    from fusionerlib.config import RunConfig
    from fusionerlib.datasets.check import plausible

    root = masks(tmp_path, plain(), names="cat\ndog\nbird\n", val="v")
    data = RunConfig.flat(dataset="folder", root=root).data
    plausible(data)
    with pytest.raises(FusionerError, match=r"never drawn: 1 \(bird\).*leave out --strict to train with warnings"):
        plausible(data, strict=True)
    result = CliRunner().invoke(app, ["train", "--strict", "--set", "dataset=folder", "--set", f"root={root}"])
    assert result.exit_code == 2 and "train: 3 pictures" in result.output and "names are never drawn" in result.output


def test_a_split_without_an_object_stops(tmp_path: Path) -> None:
    root = written(tmp_path, [thing(n, 1, box(0, 0, 4, 4)) for n in (1, 2, 3)], pictures=4)
    (root / "val.txt").write_text("0004")
    code, text = check(root)
    assert code == 1 and "stops: splits have no picture with an object: 1 (val)" in text
