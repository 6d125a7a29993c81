"""What is installed: the core alone must import, conda's list must agree, the shapes must be checked."""

import re
import subprocess
import sys
import tomllib
from importlib import resources

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch"}
# Modules of the extras, none of which the core may import, not even by a detour of its own.
EXTRAS = (
    "jupyterlab", "ipykernel", "IPython", "ipywidgets", "papermill", "nbconvert", "nbformat", "matplotlib", "seaborn",
    "skimage", "pandas", "pyarrow", "snakemake", "accelerate", "tensorboard", "pycocotools", "pytest", "beartype",
    "hypothesis", "playwright", "torchmetrics", "sklearn", "scipy",
)  # fmt: skip
# Modules that serve an extra: they may fail without it, the rest may not.
SERVING_EXTRAS = {"fusionerlib.plots"}
IMPORT_ALL = """
import importlib, importlib.abc, pkgutil, sys
blocked = set(sys.argv[1].split(","))
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocker())
import fusionerlib
names = [module.name for module in pkgutil.walk_packages(fusionerlib.__path__, "fusionerlib.")]
for name in names:
    if name not in sys.argv[2].split(","):
        importlib.import_module(name)
from fusionerlib import Segmenter
print(len(names))
"""


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(text for extra in extras for text in extra))]


def test_the_core_imports_without_any_extra() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(EXTRAS), ",".join(SERVING_EXTRAS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


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


def test_the_console_script_and_the_data_are_there() -> None:
    assert PROJECT["scripts"] == {"fusioner": "fusionerlib.cli.app:app"}
    files = {file.name for file in (resources.files("workbook") / "profiles").iterdir()}
    assert {"smoke.json", "demo.json", "full.json"} <= files


def test_a_wrong_shape_is_rejected() -> None:
    """The import hook of conftest.py is at work: without it this call would go through."""
    import torch

    from fusionerlib.encoders.base import TokenMap

    TokenMap(tokens=torch.zeros(2, 9, 4), grid=(3, 3), stride=16, space="any")
    with pytest.raises(Exception, match="tokens"):
        TokenMap(tokens=torch.zeros(9, 4), grid=(3, 3), stride=16, space="any")
    with pytest.raises(Exception, match="tokens"):
        TokenMap(tokens=torch.zeros(2, 9, 4, dtype=torch.int64), grid=(3, 3), stride=16, space="any")
