"""Parameters of a notebook: one cell of ``name: type = literal  # help`` lines, checked as a whole by the next cell.

papermill only warns about a parameter that a notebook does not have, so each notebook checks for itself::

    from fusionerlib.notebook import TrainingNotebook
    p = TrainingNotebook.from_namespace(globals())

and the project's own runner compares the given names with the parameters cell before it starts a kernel.
"""

import ast
import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from pydantic import Field

from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.protocols import Inference, Rule

HEADLESS = "FUSIONER_HEADLESS"
"""Environment variable that the runner sets for the kernels it starts."""

FRONTENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""What the servers with a person in front of them put into a kernel's environment."""


class NotebookParameters(Frozen):
    """What a notebook can be told. ``run_dir`` is the run's folder: read from by later notebooks, written to by all."""

    run_dir: str = "outputs/notebooks"

    @property
    def directory(self) -> Path:
        """``run_dir`` as a path."""
        return Path(self.run_dir)

    @classmethod
    def known(cls) -> list[str]:
        """The names that the parameters cell may bind, sorted."""
        return sorted(cls.model_fields)

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> Self:
        """The parameters that the cells before bound in ``namespace`` (a notebook hands in ``globals()``).

        Raises FusionerError naming an unknown name and the nearest known one, or an ill-typed value.
        """
        values = bound_parameters(namespace, known=cls.known())
        for name, value in values.items():
            _require_known(name, cls.known(), f"of {cls.__name__} (its value: {value!r})")
        return cls.flat(**values)

    @classmethod
    def flat(cls, **values: Any) -> Self:
        """The parameters from plain values by name; FusionerError where one does not fit."""
        return checked(cls, values)


class RunParameters(NotebookParameters):
    """Parameters with a run's config among them: every leaf of ``RunConfig`` is a name of its own (``steps``, ...)."""

    run: RunConfig = RunConfig()

    @classmethod
    def known(cls) -> list[str]:
        """The names of the parameters, the run's leaves among them."""
        return sorted({*cls.model_fields, *run_leaves()} - {"run"})

    @classmethod
    def flat(cls, **values: Any) -> Self:
        """The parameters from plain values by name, the run's leaves among them; FusionerError where one is unfit."""
        leaves = {name: value for name, value in values.items() if name in run_leaves()}
        own = {name: value for name, value in values.items() if name not in leaves}
        return checked(cls, {"run": RunConfig.flat(**leaves), **own})


class InspectionNotebook(NotebookParameters):
    """01: what the frozen encoders see.

    checkpoint: "" looks at an untrained fusion of the pair ``visual``, ``text``; a checkpoint brings its own pair.
    photo: a sample of scikit-image. beside: visual encoders, separated by commas, that look at it side by side.
    """

    checkpoint: str = ""
    visual: str = "packaged"
    text: str = "packaged"
    photo: str = "chelsea"
    beside: str = "packaged,clip-vit-b16,dino-vitb16,mocov3-vitb16,dinov2-vitb14"


class TrainingNotebook(RunParameters):
    """02: a fusion module trained; its config is ``run``."""


class EvaluationNotebook(NotebookParameters):
    """03: the checkpoint of ``run_dir`` measured on its own tests, or on those of ``test_dataset`` in ``test_root``.

    episodes: the rule by which a published list of pairs is asked, see ``protocols.episodes``. calibration_scenes:
    training images that a second threshold is calibrated on, 0 for none. threshold: in hundredths.
    """

    test_dataset: str = ""
    test_root: str = ""
    episodes: Rule = "all"
    inference: Inference = "whole"
    all_at_once: bool = True
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    calibration_scenes: int = Field(default=0, ge=0)
    names_asked: int = Field(default=8, ge=1)


class AblationNotebook(NotebookParameters):
    """04: small trainings that differ in one thing, measured on ``ablation_mosaics`` mosaics, ``seeds`` each."""

    ablation_steps: int = Field(default=150, ge=1)
    ablation_batch: int = Field(default=8, ge=1)
    ablation_mosaics: int = Field(default=100, ge=1)
    seeds: int = Field(default=1, ge=1)


class MosaicNotebook(NotebookParameters):
    """05: Mosaic-4 of the checkpoint of ``run_dir``: ``mosaics`` plain ones, harder kinds, and robustness curves.

    source, source_root: data sets that the tiles are cut from and their folders, separated by commas; "" for the
    run's own. kind_mosaics, curve_mosaics: how many of each kind and of each curve, 0 leaves them out.
    """

    source: str = ""
    source_root: str = ""
    mosaics: int = Field(default=500, ge=1)
    mosaic_seed: int = Field(default=0, ge=0)
    kind_mosaics: int = Field(default=100, ge=0)
    curve_mosaics: int = Field(default=100, ge=0)


def run_leaves() -> set[str]:
    """The leaf names of ``RunConfig``, as ``RunConfig.flat`` takes them."""
    return {leaf for _, section in RunConfig() for leaf in type(section).model_fields}


def bound_parameters(namespace: Mapping[str, Any], *, known: Iterable[str]) -> dict[str, Any]:
    """Every parameter bound in ``namespace``: the names that a misspelling can hide among.

    In a notebook these are the names of the latest run of cells that hold nothing but ``name = literal`` lines with
    a known name among them (the parameters cell, and papermill's cell after it), so that changing the parameters
    cell and running it again works in a notebook that has run to its end. Anywhere else: every public name that is
    no module, class or function.
    """
    names = _names_from_history(namespace.get("In"), known=set(known))
    if names is None:
        names = [name for name, value in namespace.items() if _may_be_parameter(name, value)]
    return {name: namespace[name] for name in names if name in namespace}


def parameter_names(notebook: Path) -> list[str]:
    """The names that the cell tagged ``parameters`` of a notebook file binds, in order.

    Raises FusionerError where the file is no notebook, or no cell of it has the tag.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "give the path of an .ipynb file"
        raise FusionerError(f"{notebook} can't be read as a notebook ({error}): {remedy}") from error
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return _bound_names(ast.parse("".join(cell["source"])).body)
    raise FusionerError(f"{notebook} has no cell tagged 'parameters': tag the cell that sets its parameters")


def check_parameters(notebook: Path, given: Iterable[str]) -> None:
    """Compare ``given`` names with the parameters cell, before any kernel starts.

    Raises FusionerError naming the first unknown name and the nearest known one.
    """
    known = parameter_names(notebook)
    for name in given:
        _require_known(name, known, f"of {notebook.name}")


def headless() -> bool:
    """Whether nobody sits in front of this kernel: plain progress lines then, and no widgets.

    True under the project's runner, under plain papermill, and in scripts; False in JupyterLab, VS Code and Colab.
    """
    return HEADLESS in os.environ or not any(name in os.environ for name in FRONTENDS)


def _require_known(name: str, known: list[str], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise FusionerError(f"unknown parameter {name!r} {where}: {hint}")


def _names_from_history(history: Any, *, known: set[str]) -> list[str] | None:
    """Names bound by the latest consecutive cells of literals that share a name with ``known``; None where there are
    none. ``history`` is IPython's ``In``: the source of every cell that ran, the running one last."""
    if not isinstance(history, list):
        return None
    group: list[str] = []
    for source in reversed(history[1:-1]):
        names = _literal_names(source)
        if names is not None:
            group = [*names, *group]
        elif known & set(group):
            break
        else:
            group = []
    return list(dict.fromkeys(group)) if known & set(group) else None


def _literal_names(source: str) -> list[str] | None:
    """The names that ``source`` binds where it is nothing but ``name = literal`` lines, else None."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return None
    plain = all(isinstance(line, ast.Assign | ast.AnnAssign) and _is_literal(line.value) for line in statements)
    return _bound_names(statements) if plain else None


def _bound_names(statements: Iterable[ast.stmt]) -> list[str]:
    targets: list[ast.expr] = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _is_literal(value: ast.expr | None) -> bool:
    # papermill writes nan and the infinities as float('nan').
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "float":
        return all(_is_literal(argument) for argument in value.args)
    try:
        ast.literal_eval(value or "None")
    except ValueError:
        return False
    return True


def _may_be_parameter(name: str, value: Any) -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    hidden = shell.user_ns_hidden if shell is not None else {}
    return not (name.startswith("_") or name in hidden or isinstance(value, ModuleType | type) or callable(value))
