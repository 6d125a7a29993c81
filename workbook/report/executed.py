"""The notebooks of a run: which ran, with which parameters, when, and what stopped them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbook.report.results import part, read_object

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What colours a traceback in a terminal."""


@dataclass(frozen=True)
class Ran:
    """One notebook of a run. ``problem`` is None where it ran to its end, "not run" where there is no trace of it.

    given: the parameters that it was called with. began, ended: as papermill wrote them (ISO 8601, UTC), "" for never.
    traceback: of the error that stopped it, "" for none.
    """

    stem: str
    title: str
    seconds: float | None = None
    problem: str | None = None
    given: dict[str, Any] = field(default_factory=dict)
    began: str = ""
    ended: str = ""
    traceback: str = ""

    @property
    def failed(self) -> bool:
        """Whether it started and did not reach its end."""
        return self.problem not in (None, "not run")


def notebooks_of(folder: Path) -> list[Ran]:
    """The notebooks of a run by name: those of its profile, and any other that was executed into it."""
    stems = {file.stem for file in (folder / "notebooks").glob("*.ipynb")}
    stems |= set(part(read_object(folder / "profile.json"), "notebooks"))
    return [_ran(folder / "notebooks" / f"{stem}.ipynb") for stem in sorted(stems)]


def failures(folder: Path) -> dict[str, str]:
    """Name to problem for each notebook of a run that started and did not reach its end."""
    return {ran.stem: str(ran.problem) for ran in notebooks_of(folder) if ran.failed}


def _ran(file: Path) -> Ran:
    if not file.is_file():
        return Ran(file.stem, file.stem, problem="not run")
    try:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        cells, metadata = notebook["cells"], notebook["metadata"].get("papermill", {})
    except (ValueError, KeyError):
        return Ran(file.stem, file.stem, problem="no notebook")
    told = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    titles = [line[2:].strip() for text in told for line in text.splitlines() if line.startswith("# ")]
    errors = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    problem = traceback = None
    if errors:
        problem = f"{errors[0]['ename']}: {errors[0]['evalue']}"
        traceback = COLOURS.sub("", "\n".join(errors[0].get("traceback", [])))
    elif metadata.get("end_time") is None:
        problem = "did not reach its end"
    return Ran(
        file.stem,
        titles[0] if titles else file.stem,
        seconds=metadata.get("duration"),
        problem=problem,
        given=part(metadata, "parameters"),
        began=metadata.get("start_time") or "",
        ended=metadata.get("end_time") or "",
        traceback=traceback or "",
    )
