"""The clone of the repository: where it is, and paths that count from it wherever a notebook's kernel runs.

JupyterLab and VS Code start a kernel in the folder of its notebook, papermill starts it in the clone. The notebooks'
paths (``outputs/demo``) count from the clone in both, and the kernel's working directory stays as it is.
"""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from fusionerlib.errors import FusionerError
from fusionerlib.hub import checkpoint_places

PATHS = {"run_dir", "root", "coco", "features", "test_root", "source_root", "voc_root", "coco_root", "vectors"}
PATHS |= {"records", "page", "image", "visual_weights", "text_weights", "affinity_weights"}
"""Parameters that hold a path, or several separated by commas (source_root); "" stands for none."""

Parameters = TypeVar("Parameters", bound=BaseModel)


def find_clone() -> Path:
    """The folder with the Snakefile and the notebooks: around the working directory, else around this package.

    Raises FusionerError where there is neither.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / "Snakefile").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise FusionerError(
        f"{Path.cwd()} is in no clone of the workbook (no Snakefile with notebooks/ beside it): "
        "clone the repository, run `make install` there, and call `fusioner run` inside it"
    )


def base_folder() -> Path:
    """The folder that a notebook's relative paths count from: the clone, for a kernel that runs in its ``notebooks``.

    Anywhere else the working directory, as ``Path()``.
    """
    here = Path.cwd()
    return here.parent if here.name == "notebooks" and (here.parent / "Snakefile").is_file() else Path()


def located(parameters: Parameters, base: Path) -> Parameters:
    """``parameters`` with each relative path in them, those of nested configs too, counted from ``base``.

    Paths become absolute where ``base`` is: a checkpoint keeps them, and is later read from other folders. What may be
    a name or a path (checkpoint, templates, synonyms) is a path where ``base`` has it.
    """
    if base == Path():
        return parameters
    return parameters.model_copy(update={name: _located(name, value, base) for name, value in parameters})


def located_checkpoint(given: str, base: Path) -> str:
    """``given`` as ``Segmenter.load`` takes it, counted from ``base`` where it is a folder or the name of a run."""
    return next((str(place) for place in checkpoint_places(given, base=base) if place.is_dir()), given)


def _located(name: str, value: Any, base: Path) -> Any:
    if isinstance(value, BaseModel):
        return located(value, base)
    if name == "source_root" and value:
        return ",".join(str(base / part.strip()) for part in value.split(","))
    if name in PATHS and value:
        return type(value)(base / value)
    if name == "text" and value.startswith("vectors:"):
        return f"vectors:{base / value.removeprefix('vectors:')}"
    if name in ("checkpoint", "init") and value:
        return located_checkpoint(value, base)
    if name in ("templates", "synonyms") and value and (base / value).is_file():
        return str(base / value)
    return value
