"""The parameters cell of a notebook: which names it binds, in the file and in a running kernel."""

import ast
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fusionerlib.errors import FusionerError, nearest


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
        require_known(name, known, f"of {notebook.name}")


def require_known(name: str, known: list[str], where: str) -> None:
    """Raises FusionerError naming ``name`` and the nearest of ``known`` where it is none of them."""
    if name not in known:
        raise FusionerError(f"unknown parameter {name!r} {where}: {nearest(name, known)}")


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
