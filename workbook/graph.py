"""A run of several notebooks: its profile (data and parameters), and the call of Snakemake that makes what is missing.

The dependencies are in the clone's ``Snakefile``. Its working directory is the run's folder, so deleting that folder
deletes everything about the run, Snakemake's own records included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from pydantic import Field

from fusionerlib.cli.settings import parsed
from fusionerlib.config import Frozen, checked
from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive, inherited, ready_cache, ready_folder, without_braces
from fusionerlib.records import usable_cores
from workbook.clone import find_clone, located
from workbook.execution import own_kernel
from workbook.parameter_cells import accepted_names, check_numbers, check_parameters
from workbook.run_log import STEPS, RunLog, new_lines

POLL = 0.5
"""Seconds between two looks at the log of a run."""


class Profile(Frozen):
    """The size of a run. data: options of `fusioner data openmoji`. notebooks: the parameters of each, by file stem.

    first_look: start with a page of the packaged checkpoint on sample photographs. seconds: what each rule of the
    Snakefile takes on two cores, half of it where two run at once; only for the time that is left.
    """

    name: str
    first_look: bool = False
    seconds: dict[str, float] = Field(default_factory=dict)
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
    except (OSError, ValueError, RecursionError) as error:
        raise FusionerError(f"profile {name!r} is no JSON ({error}): correct the file") from error
    return checked(Profile, values)


def with_overrides(profile: Profile, overrides: Mapping[str, str], *, notebooks: Path) -> Profile:
    """``profile`` with settings changed: ``steps`` in every notebook that has it, ``02_training.steps`` in that
    notebook, ``data.seed`` in the data. A value that is JSON is read as JSON, else it is text.

    Raises FusionerError for a key that nothing has.
    """
    data = dict(profile.data)
    given = {name: dict(values) for name, values in profile.notebooks.items()}
    known = {name: accepted_names(notebooks / f"{name}.ipynb") for name in given}
    for key, text in overrides.items():
        home, _, leaf = key.rpartition(".")
        homes = [home] if home else [name for name, names in known.items() if key in names]
        if not homes or not set(homes) <= {*known, "data"}:
            hint = f"write data.{key}={text}" if key in data else f"the parts are {', '.join([*known, 'data'])}"
            raise FusionerError(f"--set {key}={text}: no notebook of profile {profile.name!r} has {key!r}; {hint}")
        for name in homes:
            (data if name == "data" else given[name])[leaf] = parsed(text)
    return profile.model_copy(update={"data": data, "notebooks": given})


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
        check_numbers(root / "notebooks" / f"{notebook}.ipynb", given)
    _check_data(profile.data)
    folder = (output or root / "outputs" / profile.name).resolve()
    import_module("snakemake")  # before anything is made; the command line tells which extra brings it
    ready_folder(without_braces(folder))
    ready_cache()  # Snakemake needs it
    # A dry run only reads, so it may be made while a run goes on.
    alone = nullcontext() if dry_run else exclusive(folder / ".run.lock", f"a run in {folder}")
    with alone as lock, tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch if dry_run else folder) / "profile.json"
        # In the file, not on Snakemake's command line, which would read a folder called `run: 2` as YAML.
        content = {
            **profile.model_dump(mode="json"),
            "output": str(folder),
            "fingerprint": _data_of(profile, root, folder),
        }
        config.write_text(json.dumps(content, indent=2), "utf-8")
        own_kernel()
        command = _command(root, folder, config, cores=cores, dry_run=dry_run)
        given = {"cwd": root, "env": _environment(), **({} if lock is None else inherited(lock))}
        if dry_run:
            if subprocess.run(command, check=False, **given).returncode:
                raise FusionerError(f"the graph of {folder} can't be made: see the messages above")
            return folder
        code = _watched(command, profile, folder, **given)
    if code:
        from workbook.report import failures, write_site

        write_site(folder)
        reasons = (
            "; ".join(f"{stem}: {problem}" for stem, problem in failures(folder).items()) or "see the messages above"
        )
        raise FusionerError(f"the run in {folder} is not complete ({reasons}). The same command continues it")
    return folder


def _check_data(data: Mapping[str, Any]) -> None:
    """Raise FusionerError for options that `fusioner data openmoji` would refuse later, when the graph is under way."""
    from fusionerlib.datasets.openmoji.drawing import Recipe

    if not isinstance(root := data.get("root", ""), str):
        raise FusionerError(f"data.root = {root!r}: expected the path of a folder")
    try:
        checked(Recipe, {name: value for name, value in data.items() if name != "root"})
    except FusionerError as error:
        raise FusionerError(f"data of the profile: {error}") from error


def _data_of(profile: Profile, root: Path, folder: Path) -> str:
    """The fingerprint of the data that a run trains on; "" for drawn scenes, which the graph makes itself.

    Where the data is no longer there, the one of the run's last call: what is finished stays.
    """
    from fusionerlib.datasets.sets import load_datasets
    from workbook.notebook import TrainingNotebook

    given = profile.notebooks.get("02_training", {})
    if given.get("dataset", "openmoji") == "openmoji":
        return ""
    try:
        return load_datasets(located(TrainingNotebook.flat(**given), root).run.data).fingerprint
    except FusionerError:
        last = folder / "profile.json"
        try:
            return str(json.loads(last.read_text(encoding="utf-8")).get("fingerprint", ""))
        except (OSError, ValueError, AttributeError, RecursionError):
            return ""


def _command(root: Path, folder: Path, config: Path, *, cores: int | None, dry_run: bool) -> list[str]:
    """The call of Snakemake."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", folder]
    command += ["--configfile", config, "--cores", str(cores or usable_cores())]
    command += ["--rerun-triggers", "mtime", "params", "--rerun-incomplete", "--keep-going"]
    # `exclusive` holds the lock: Snakemake's own would stay after a killed run and refuse the next.
    command += ["--nolock", *(["--quiet", "host", "rules", "--dry-run"] if dry_run else [])]
    return [str(part) for part in command]


def _environment() -> dict[str, str]:
    """This environment, whose programs kernels and shell commands must find first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _watched(command: list[str], profile: Profile, folder: Path, **given: Any) -> int:
    """Run Snakemake with its output in the run's log, tell each step as it is done, and return the exit status."""
    log = folder / "run.log"
    shown = RunLog(folder, seconds=profile.seconds, tell=partial(print, flush=True))
    with log.open("w", encoding="utf-8") as writing, log.open(encoding="utf-8", errors="replace") as reading:
        process = subprocess.Popen(command, stdout=writing, stderr=subprocess.STDOUT, **given)
        try:
            if profile.first_look:
                print(f"open {_first_look(folder)}", flush=True)
            print(f"messages: {log}", flush=True)
            ended = False
            while not ended:
                ended = process.poll() is not None
                shown.read(new_lines(reading))
                time.sleep(0 if ended else POLL)
        except KeyboardInterrupt:
            process.wait()
            raise FusionerError(f"stopped; the same command continues the run in {folder}") from None
        finally:
            if process.poll() is None:  # the first page failed: no run goes on that nobody watches
                process.terminate()
                process.wait()
    return process.returncode


def _first_look(folder: Path) -> Path:
    """The page of the packaged checkpoint on sample photographs, written where it is missing."""
    from workbook.report.first_look import NAME, write_first_look

    pages = [(title, f"pages/{stem}.html" if stem else "") for title, stem in STEPS.values()]
    return folder / NAME if (folder / NAME).is_file() else write_first_look(folder, steps=pages)


def _profiles() -> Any:
    return resources.files("workbook") / "profiles"
