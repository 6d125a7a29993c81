"""Other platforms, as far as this one can stand in for them: no fcntl, no UTF-8, odd paths, a read-only tree."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import chelsea

from tests.conftest import ROOT

SOURCES = [file for part in ("fusionerlib", "workbook", "studies") for file in sorted((ROOT / part).rglob("*.py"))]
POSIX = ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog")
"""Modules that Windows does not have."""
ODD = "Ä ö 猫 mit Leerzeichen"

HIDDEN = f"""
import os, sys
for name in {POSIX!r}:
    sys.modules[name] = None
for name in ("sched_getaffinity", "sysconf", "fork", "geteuid", "getuid", "sysconf_names"):
    if hasattr(os, name):
        delattr(os, name)
"""


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def test_the_library_is_imported_and_segments_without_posix(tmp_path: Path) -> None:
    code = HIDDEN + (
        "from skimage.data import chelsea\n"
        "from fusionerlib import Segmenter\n"
        "from fusionerlib.records import environment\n"
        "segmenter = Segmenter.load('packaged').set_image(chelsea())\n"
        "print(segmenter.segment(['cat']).labels.mean() > 0.1, environment()['machine']['cores'] >= 1)\n"
    )
    done = run(code, tmp_path)
    assert done.stdout.split() == ["True", "True"], done.stderr


@pytest.mark.soak
def test_every_module_is_imported_without_posix(tmp_path: Path) -> None:
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in SOURCES
        if file.name != "__main__.py"
    ]
    code = HIDDEN + f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\nprint('done')\n"
    done = run(code, tmp_path)
    assert done.stdout.split()[-1:] == ["done"], done.stderr[-2000:]


def test_text_files_are_opened_with_their_encoding() -> None:
    """Where Python's default is not UTF-8 (Windows), a file without its encoding is read wrong."""
    bare = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            given = {keyword.arg for keyword in node.keywords}
            words = [one.value for argument in node.args for one in ast.walk(argument) if isinstance(one, ast.Constant)]
            if name in ("read_text", "write_text") and owner not in ("", "files"):
                last = words[-1:] if name == "read_text" or len(node.args) > 1 else []
                bare += [] if "encoding" in given or last else [f"{file.relative_to(ROOT)}:{node.lineno}"]
            if name == "open" and owner not in ("Image", "os", "tarfile", "zipfile", "webbrowser", "gzip", "lzma"):
                mode = next((word for word in words if isinstance(word, str) and re.fullmatch("[rwaxbt+]+", word)), "r")
                opened_as_path = name == "open" and (owner or name)
                if "b" not in mode and "encoding" not in given and opened_as_path:
                    bare.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert bare == []


def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / ODD
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(5):
        Image.fromarray(chelsea()[: 96 + number, :128]).save(folder / "images" / f"Bild {number} ß.png")
        Image.fromarray(np.ones((96 + number, 128), np.uint8)).save(folder / "masks" / f"Bild {number} ß.png")
    (folder / "names.txt").write_text("1 Kätzchen\n", encoding="utf-8")
    return folder


C = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""An environment in which Python takes ASCII for the encoding of everything."""


@pytest.mark.parametrize("command", ["predict", pytest.param("train", marks=pytest.mark.soak), "evaluate", "segment"])
def test_odd_paths_and_names_in_a_locale_without_utf_8(tmp_path: Path, command: str) -> None:
    folder = odd_folder(tmp_path)
    arguments = {
        "predict": ["predict", "images", "--names", "names.txt", "-o", "Fenster ü", "--format", "index,coco"],
        "train": ["train", "-o", "Läufe", "--set", "dataset=folder", "--set", "root=.", "--set", "steps=1", "--set",
                  "size=64", "--set", "batch=2", "--set", "features=Züge"],
        "evaluate": ["evaluate", "--data", ".", "-o", "Maße"],
        "segment": ["segment", "images/Bild 0 ß.png", "--names", "names.txt", "-o", "Überlagerung.png"],
    }[command]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "fusionerlib.cli.app", *arguments], cwd=folder, check=False, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **C}, encoding="utf-8", errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    made = {"predict": "Fenster ü/masks/Bild 3 ß.png", "train": "Läufe/checkpoint/config.json",
            "evaluate": "Maße/scores.json", "segment": "Überlagerung.png"}[command]  # fmt: skip
    assert (folder / made).is_file()
    if command == "predict":
        images = json.loads((folder / "Fenster ü" / "annotations" / "instances.json").read_text())["images"]
        assert [image["file_name"] for image in images] == [f"Bild {number} ß.png" for number in range(5)]
        table = pd.read_parquet(folder / "Fenster ü" / "predictions.parquet")
        assert set(table["file"]) == {f"images/Bild {number} ß.png" for number in range(5)}
        assert (folder / "Fenster ü" / "names.txt").read_text(encoding="utf-8") == "1 Kätzchen\n"


OTHER = 65534
"""The number of a user to whom nothing belongs; ``OTHER - 1`` has no entry among the users, as in a container."""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which everybody may write, with a photo and a folder of labelled ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(chelsea()).save(folder / "cat.png")
        odd_folder(folder).rename(folder / "own")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield folder


def as_other(folder: Path, *arguments: str, user: int, home: str) -> subprocess.CompletedProcess[str]:
    """``fusioner`` of this clone, which belongs to root, as ``user`` in ``folder``."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("another user is had by root alone, and by setpriv")
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", sys.executable]
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"HOME": home} if home else {})
    reach = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import fusionerlib"
    if subprocess.run([*become, "-c", reach], cwd=folder, check=False, capture_output=True).returncode:
        pytest.skip("this clone, or its Python, can't be read by another user")
    return subprocess.run(
        [*become, "-m", "fusionerlib.cli.app", *arguments], cwd=folder, env=environment, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


TRAIN = ("train", "-o", "run", "--set", "dataset=folder", "--set", "root=own", "--set", "steps=1", "--set", "size=64",
         "--set", "batch=2", "--set", "features=features")  # fmt: skip


@pytest.mark.parametrize(
    ("user", "home"),
    [(OTHER - 1, ""), *(pytest.param(OTHER, home, marks=pytest.mark.soak) for home in ("/nowhere", "/root"))],
)
@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (("segment", "cat.png", "cat"), "overlay.png"),
        (("doctor",), ""),
        pytest.param(TRAIN, "run/checkpoint/config.json", marks=pytest.mark.soak),
        pytest.param(("evaluate", "--data", "own", "-o", "scores"), "scores/scores.json", marks=pytest.mark.soak),
    ],
)
def test_another_user_needs_no_home_and_may_not_write_the_source(
    open_folder: Path, user: int, home: str, arguments: tuple[str, ...], made: str
) -> None:
    done = as_other(open_folder, *arguments, user=user, home=home)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "failed" not in done.stdout and (open_folder / made).exists()
    assert not [path for path in ROOT.rglob("*") if path.stat().st_uid == user]


REFUSED = {
    "TORCH_HOME|XDG_CACHE_HOME": ("fetch", "dino-vitb8"),
    "HF_HOME|can't be downloaded": ("fetch", "clip-vit-b16"),
    "XDG_CACHE_HOME": ("segment", "cat.png", "cat", "--checkpoint", "hf://a/b"),
    "XDG_CACHE_HOME.*": ("run", "smoke", "-n", "-o", "run"),
    "outputs/smoke can't be written": ("run", "smoke", "-n"),
    "outputs.* can't be written": ("train", "-o", str(ROOT / "outputs" / "x"), *TRAIN[3:]),
}
"""What a command is told that needs a cache or a folder which that user may not write."""


@pytest.mark.parametrize(
    "told", [told if place == 0 else pytest.param(told, marks=pytest.mark.soak) for place, told in enumerate(REFUSED)]
)
@pytest.mark.parametrize(("user", "home"), [(OTHER - 1, ""), pytest.param(OTHER, "/root", marks=pytest.mark.soak)])
def test_a_cache_or_place_that_may_not_be_written_is_told_with_its_setting(
    open_folder: Path, user: int, home: str, told: str
) -> None:
    done = as_other(open_folder, *REFUSED[told], user=user, home=home)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(re.findall("^fusioner: ", done.stderr, re.MULTILINE)) == 1
    assert re.search(told, done.stderr), done.stderr
