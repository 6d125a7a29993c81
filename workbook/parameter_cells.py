"""The parameters cell of a notebook: the names that it binds, in the notebook file and in a running kernel."""

import ast
import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import create_model

from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.errors import FusionerError, nearest

CHECKED = "_checked_parameters"
"""The name under which a kernel's namespace remembers which parameters were checked last."""

IMPORTED = re.compile(r"from workbook\.notebook import (\w+Notebook)\b")
"""The line of a notebook that imports its parameter class."""


def bound_parameters(namespace: MutableMapping[str, Any], *, known: Iterable[str]) -> dict[str, Any]:
    """Every parameter bound in ``namespace``, misspelt ones included.

    At the first call these are all public names that are no module, class or function: the names of the parameters
    cell, and of the cell that papermill puts after it. They are remembered, since later cells bind variables of their
    own. When the parameters cell runs again, the names that it annotates (``name: type = literal``) are added, and
    remembered names that are not ``known`` are dropped: the cell may have corrected them.
    """
    remembered, annotated = namespace.get(CHECKED), _take_annotations(namespace)
    if remembered is None:
        names = _public_values(namespace)
    elif annotated:
        names = [*(name for name in remembered if name in set(known)), *annotated]
    else:
        names = list(remembered)
    found = {name: namespace[name] for name in dict.fromkeys(names) if name in namespace}
    namespace[CHECKED] = tuple(found)
    return found


def parameter_names(notebook: Path) -> list[str]:
    """The names that the cell tagged ``parameters`` of a notebook file binds, in order.

    Raises FusionerError where the file is no notebook, or no cell of it has the tag.
    """
    try:
        cells = [dict(cell) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        remedy = "give the path of an .ipynb file"
        raise FusionerError(f"{notebook} can't be read as a notebook ({error}): {remedy}") from error
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return _bound_names(ast.parse("".join(cell["source"])).body)
    raise FusionerError(f"{notebook} has no cell tagged 'parameters': tag the cell that sets its parameters")


def accepted_names(notebook: Path) -> list[str]:
    """``parameter_names``, and the other names that the notebook's own parameter class knows: a cell may show a few.

    The class is the one of ``workbook.notebook`` that the notebook imports. Raises FusionerError as
    ``parameter_names`` does.
    """
    names, own = parameter_names(notebook), _class_of(notebook)
    return [*names, *(name for name in own.known() if name not in names)] if own is not None else names


def _class_of(notebook: Path) -> Any:
    from workbook import notebook as classes

    imported = IMPORTED.search(notebook.read_text(encoding="utf-8"))
    return getattr(classes, imported[1], None) if imported else None


def check_parameters(notebook: Path, given: Iterable[str]) -> None:
    """Compare ``given`` names with the notebook's parameters (``accepted_names``), before any kernel starts.

    Raises FusionerError naming the first unknown name and the nearest known one.
    """
    known = accepted_names(notebook)
    for name in given:
        require_known(name, known, f"of {notebook.name}")


def check_numbers(notebook: Path, given: Mapping[str, Any]) -> None:
    """Compare the numbers among ``given`` with what the notebook's parameter class takes, before any kernel starts.

    What is no number is left to the notebook: a path may be made before it runs. Raises FusionerError naming a value
    that is none, or outside its bounds.
    """
    own = _class_of(notebook)
    if own is None:
        return
    fields = dict(own.model_fields)
    if "run" in fields:
        for section in RunConfig.model_fields.values():
            fields = {**getattr(section.annotation, "model_fields", {}), **fields}
    numbers: dict[str, Any] = {
        name: (fields[name].annotation, fields[name])
        for name, value in given.items()
        if value is not None and name in fields and fields[name].annotation in (int, float, bool)
    }
    model = create_model(f"a parameter of {notebook.name}", __base__=Frozen, **numbers)
    checked(model, {name: given[name] for name in numbers})


def require_known(name: str, known: list[str], where: str) -> None:
    """Raises FusionerError naming ``name`` and the nearest of ``known`` where it is none of them."""
    if name not in known:
        raise FusionerError(f"unknown parameter {name!r} {where}: {nearest(name, known)}")


def _take_annotations(namespace: MutableMapping[str, Any]) -> list[str]:
    """The public names that were annotated since the last call."""
    annotations = namespace.get("__annotations__")
    # Since Python 3.14 code leaves a function that makes its annotations; 1 asks for their values.
    lazy = namespace.pop("__annotate__", None)
    if not annotations and callable(lazy):
        try:
            annotations = lazy(1)
        except Exception:  # an annotation that can't be evaluated: those of a parameters cell are builtin types
            annotations = None
    names = [name for name in annotations or {} if not name.startswith("_")]
    if annotations:
        annotations.clear()
    return names


def _bound_names(statements: Iterable[ast.stmt]) -> list[str]:
    targets: list[ast.expr] = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _public_values(namespace: Mapping[str, Any]) -> list[str]:
    """Names in ``namespace`` that are neither private, nor IPython's own, nor a module, class or function."""
    shell = namespace.get("get_ipython", lambda: None)()
    hidden = shell.user_ns_hidden if shell is not None else {}
    return [
        name
        for name, value in namespace.items()
        if not (name.startswith("_") or name in hidden or isinstance(value, ModuleType) or callable(value))
    ]
