"""A run of several notebooks: its profile (data and parameters), and the call of Snakemake that makes what is missing.

The dependencies are in the clone's ``Snakefile``. Its working directory is the run's folder, so deleting that folder
deletes everything about the run, Snakemake's own records included.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from fusionerlib.cli.settings import parsed
from fusionerlib.config import Frozen, checked
from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive
from workbook.clone import find_clone
from workbook.execution import own_kernel
from workbook.parameter_cells import check_parameters, parameter_names


class Profile(Frozen):
    """The size of a run. data: options of `fusioner data openmoji`. notebooks: the parameters of each, by file stem."""

    name: str
    data: dict[str, Any] = Field(default_factory=dict)
    notebooks: dict[str, dict[str, Any]] = Field(default_factory=dict)


def profile_names() -> list[str]:
    """The names of the profiles in ``workbook/profiles``, sorted."""
    return sorted(file.name[:-5] for file in _profiles().iterdir() if file.name.endswith(".json"))


def load_profile(name: str) -> Profile:
    """The profile called ``name`` in ``workbook/profiles``, or the one in a JSON file by its path.

    Raises FusionerError where there is none, or where it has an unknown key.
    """
    file = Path(name) if name.endswith(".json") else _profiles() / f"{name}.json"
    if not file.is_file():
        known = ", ".join(profile_names())
        raise FusionerError(f"no profile {name!r}: choose one of {known}, or give the path of a profile's .json file")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FusionerError(f"profile {name!r} is no JSON ({error}): correct the file") from error
    return checked(Profile, values)


def with_overrides(profile: Profile, overrides: Mapping[str, str], *, notebooks: Path) -> Profile:
    """``profile`` with settings changed: ``steps`` in every notebook that has it, ``02_training.steps`` in that
    notebook, ``data.seed`` in the data. A value that is JSON is read as JSON, else it is text.

    Raises FusionerError for a key that nothing has.
    """
    data = dict(profile.data)
    given = {name: dict(values) for name, values in profile.notebooks.items()}
    known = {name: parameter_names(notebooks / f"{name}.ipynb") for name in given}
    for key, text in overrides.items():
        home, _, leaf = key.rpartition(".")
        homes = [home] if home else [name for name, names in known.items() if key in names]
        if not homes or not set(homes) <= {*known, "data"}:
            hint = f"write data.{key}={text}" if key in data else f"the parts are {', '.join([*known, 'data'])}"
            raise FusionerError(f"--set {key}={text}: no notebook of profile {profile.name!r} has {key!r}; {hint}")
        for name in homes:
            (data if name == "data" else given[name])[leaf] = parsed(text)
    return Profile(name=profile.name, data=data, notebooks=given)


def run_profile(
    name: str,
    *,
    clone: Path | None = None,
    output: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    dry_run: bool = False,
    cores: int | None = None,
) -> Path:
    """Make everything of the profile ``name`` that is missing or out of date, and return the run's folder.

    clone: the clone to run, else ``find_clone()``. output: the folder, else ``outputs/PROFILE``. overrides: see
    ``with_overrides``. dry_run: only print what would run. cores: processor cores, all if None.
    The same call continues a run that was stopped in any way, ``kill -9`` included. Raises FusionerError naming the
    notebooks that failed, after the report of the others is written.
    """
    root = (clone or find_clone()).resolve()
    profile = with_overrides(load_profile(name), overrides or {}, notebooks=root / "notebooks")
    for notebook, given in profile.notebooks.items():
        check_parameters(root / "notebooks" / f"{notebook}.ipynb", given)
    folder = (output or root / "outputs" / profile.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".run.lock", f"a run in {folder}") as lock, tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch if dry_run else folder) / "profile.json"
        config.write_text(profile.model_dump_json(indent=2), encoding="utf-8")
        own_kernel()
        code = _snakemake(root, folder, config, cores=cores, dry_run=dry_run, keep_open=lock.fileno())
    if dry_run:
        return folder
    if code:
        from workbook.report import failures, write_site

        write_site(folder)
        reasons = (
            "; ".join(f"{stem}: {problem}" for stem, problem in failures(folder).items()) or "see the messages above"
        )
        raise FusionerError(f"the run in {folder} is not complete ({reasons}). The same command continues it")
    return folder


def _snakemake(root: Path, folder: Path, config: Path, *, cores: int | None, dry_run: bool, keep_open: int) -> int:
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", folder]
    command += ["--configfile", config, "--config", f"output={folder}"]
    command += ["--cores", str(cores or len(os.sched_getaffinity(0)))]
    command += ["--rerun-triggers", "mtime", "params", "--rerun-incomplete", "--keep-going"]
    # `exclusive` holds the lock: Snakemake's own would stay after a killed run and refuse the next.
    command += ["--nolock", "--quiet", "host", "rules", *(["--dry-run"] if dry_run else ["progress", "reason"])]
    # Kernels and shell commands must find the programs of this environment first.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    process = subprocess.Popen([str(part) for part in command], cwd=root, env=environment, pass_fds=(keep_open,))
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise FusionerError(f"stopped; the same command continues the run in {folder}") from None


def _profiles() -> Any:
    return resources.files("workbook") / "profiles"
