"""The two pages on encoders against the registry, and their example run as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fusionerlib.encoders.registry import PREFIXES, list_encoders

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_has_every_encoder_with_its_licence() -> None:
    rows = re.findall(
        r"^\| (`.*?) \| (.*?) \| .*? \| (.*?) \|$", (ROOT / "docs" / "encoders.md").read_text(), re.MULTILINE
    )
    listed = {
        (role, name): licence
        for names, roles, licence in rows
        for name in re.findall("`(.*?)`", names)
        for role in roles.split(", ")
    }
    for spec in list_encoders():
        licence = listed.pop((spec.role, spec.name))
        assert licence.startswith(spec.licence), spec.name
        assert all(part in licence for part in re.findall(r"https://\S+|non-commercial use only", spec.terms)), (
            spec.name
        )
    assert {(role, name.partition(":")[0]) for role, name in listed} == set(PREFIXES)


def test_the_example_of_a_new_encoder_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "adding_an_encoder.md").read_text()
    (specs,), (loader, test) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("json", "python"))
    for folder in ("fusionerlib", "tests/encoders"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "fusionerlib" / "encoders" / "specs" / "lab.json").write_text(specs)
    (tmp_path / "fusionerlib" / "encoders" / "lab.py").write_text(loader)
    (tmp_path / "tests" / "encoders" / "test_lab.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/encoders/test_lab.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
