"""`fusioner doctor`: a report that can be pasted into a public issue, also from a broken installation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fusionerlib.cli.app import app
from fusionerlib.cli.doctor import WIDTH
from fusionerlib.encoders.registry import list_encoders
from fusionerlib.records import RECORDED
from tests.conftest import ROOT

QUICK = """
import sys
from fusionerlib.cli.doctor import sections
for title, section in sections():
    if title == "torch":
        break
    assert "torch" not in sys.modules, title
assert "torch" in sys.modules
"""


def report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, dict[str, object]] = json.loads(result.output)
    return found


def voc(root: Path) -> Path:
    """Empty files in the layout of PASCAL VOC."""
    for file in (
        "JPEGImages/2007_000032.jpg",
        "SegmentationClassAug/2007_000032.png",
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/trainval.txt",
        "ImageSets/Segmentation/val.txt",
    ):
        path = root / "VOCdevkit" / "VOC2012" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_the_report_has_what_a_maintainer_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(tmp_path, monkeypatch)
    assert set(found["packages"]) == set(RECORDED) and found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert found["system"]["python"] == sys.version.split()[0] and found["system"]["git"] == "no checkout"
    assert found["torch"]["threads"] == torch.get_num_threads()
    for role in ("visual", "text"):
        count, _, names = str(found["encoders whose weights are here"][role]).partition(": ")
        assert count.endswith(f" of {len(list_encoders(role))}") and "packaged" in names.split(", ")
    assert all("failed" not in section for section in found.values()), found


def test_data_sets_are_found_by_their_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(tmp_path, monkeypatch)["data sets"] == {"data": "none found"}
    voc(tmp_path / "data" / "pascal")
    (tmp_path / "data" / "mine" / "images").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "masks").mkdir()
    assert report(tmp_path, monkeypatch)["data sets"] == {"data/mine": "folder (your own)", "data/pascal": "pascal"}


def test_a_part_that_fails_says_why_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (voc(tmp_path / "data" / "pascal") / "pascal.manifest.json").write_text("{")
    found = report(tmp_path, monkeypatch)
    assert "pascal.manifest.json can't be read as a manifest" in str(found["data sets"]["failed"])
    assert found["torch"]["threads"]


def test_the_home_folder_is_not_told(tmp_path: Path) -> None:
    folder = tmp_path / "anna" / "work"
    folder.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HOME", "TORCH_HOME")}
    environment |= {"HOME": str(tmp_path / "anna"), "USERPROFILE": str(tmp_path / "anna"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fusionerlib.cli.app", "doctor"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "anna" not in done.stdout and "working directory: ~/work" in done.stdout
    assert "~/.cache/huggingface/hub: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_the_first_parts_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
