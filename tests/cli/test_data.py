"""``fusioner data ...``: light to start, options in the order that people write them, what is there said in a line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib.cli.data import data
from fusionerlib.cli.settings import pairs
from fusionerlib.errors import FusionerError
from tests.cli.helped import help_without

runner = CliRunner()


def run(*arguments: str | Path) -> str:
    """What a command prints; its error is raised."""
    result = runner.invoke(data, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two images of VOC in HSNet's layout."""
    home = tmp_path / "theirs" / "VOCdevkit" / "VOC2012"
    for folder, suffix, kind in (("JPEGImages", "jpg", (16, 24, 3)), ("SegmentationClassAug", "png", (16, 24))):
        (home / folder).mkdir(parents=True)
        for key in ("2007_000033", "2007_000032"):
            Image.fromarray(np.full(kind, 1, np.uint8)).save(home / folder / f"{key}.{suffix}")
    return tmp_path / "theirs"


def test_help_imports_nothing_heavy_and_names_every_data_set() -> None:
    heavy = {"torch", "numpy", "pydantic", "httpx2", "PIL", "tqdm"}
    told = help_without(heavy, module="fusionerlib.cli.data", app="data")
    for command in ("openmoji", "pascal", "coco", "fss", "ade", "context"):
        assert command in told


def test_linked_data_are_verified_and_told(voc: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(FusionerError, match=r"has 2 files .* published are 17125.*--partial"):
        run("pascal", "--root", root, "--link", voc, "--quiet")
    told = run("pascal", "--root", root, "--link", voc, "--partial", "--thorough", "--quiet")
    assert told == (
        f"{root}: PASCAL VOC 2012 with SBD's masks: 2 of 17,125 images, 2 of 12,031 masks; 2 images opened; all files "
        f"in {root / 'pascal.manifest.json'}\n"
    )
    assert run("pascal", "--root", root, "--quiet") == told, "what was accepted once needs no --partial again"
    (voc / "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg").write_bytes(b"cut")
    with pytest.raises(FusionerError, match=r"by the manifest .*2007_000032\.jpg has 3 bytes instead of"):
        run("pascal", "--root", root, "--quiet")


def test_several_archives_follow_from(tmp_path: Path) -> None:
    archives = [tmp_path / name for name in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz")]
    for archive in archives:
        archive.write_bytes(b"cut short")
    for given in (["--from", archives[0], archives[1]], ["--from", archives[1], "--from", archives[0]]):
        with pytest.raises(
            FusionerError, match=r"VOCtrainval_11-May-2012\.tar has 9 bytes, .* 1999639040: .*cut short"
        ):
            run("pascal", "--root", tmp_path / "root", *given, "--quiet")
    with pytest.raises(FusionerError, match="is no file of pascal"):
        run("pascal", "--root", tmp_path / "root", "--from", archives[0], tmp_path / "other.zip")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pascal", "voc.tar"], "unexpected argument .voc.tar.: archives follow --from"),
        (["ade", "--link", "nowhere"], "--link nowhere is no folder"),
        (["fss", "--root", "ROOT"], "fewshot_data.zip can't be downloaded here: .*Google Drive"),
        (
            ["coco", "--root", "ROOT", "--year", "2017", "--split", "val", "--link", "."],
            "has no images of COCO 2017, val",
        ),
        (
            ["coco", "--root", "ROOT", "--from", "val2017.zip"],
            "no file of coco-train2014, coco-val2014: expected train2014",
        ),
    ],
)
def test_errors_name_the_value_and_the_remedy(arguments: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=told):
        run(*(tmp_path / "root" if argument == "ROOT" else argument for argument in arguments))


def test_pairs_split_at_the_first_equals_sign() -> None:
    assert pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(FusionerError, match="'=1'"):
        pairs(["a=1", "=1"])
