"""What a run left behind, for people: the table of its measured results, what failed, and its index page."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError
from fusionerlib.pages import POLICY, write_page

FIGURE_WIDTH = 1400
"""Figures wider than this, in pixels, are scaled down on the index page."""


@dataclass(frozen=True)
class Ran:
    """One notebook of a run. ``problem`` is None where it ran to its end, "not run" where there is no trace of it."""

    stem: str
    title: str
    seconds: float | None
    problem: str | None

    @property
    def failed(self) -> bool:
        """Whether it started and did not reach its end."""
        return self.problem not in (None, "not run")


@dataclass(frozen=True)
class Table:
    """Rows of measured results that share their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Nested results as tables: one row for every dict that holds numbers, neighbours of equal keys in one table."""
    found: list[Table] = []
    for name, values in _rows(metrics, ()):
        columns, cells = tuple(values), tuple(_shown(value) for value in values.values())
        if found and found[-1].columns == columns:
            found[-1] = Table(columns, (*found[-1].rows, (name, cells)))
        else:
            found.append(Table(columns, ((name, cells),)))
    return found


def terminal_table(metrics: Mapping[str, Any], *, most: int = 24) -> str:
    """The results for a terminal, at most ``most`` rows; metrics.json holds the rest."""
    lines: list[str] = []
    rows = 0
    for table in tables(metrics):
        kept = table.rows[: max(0, most - rows)]
        rows += len(table.rows)
        if not kept:
            continue
        grid = [("", *table.columns), *((name, *cells) for name, cells in kept)]
        widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
        for name, *cells in grid:
            right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
        lines.append("")
    if rows > most:
        lines.append(f"... and {rows - most} more rows in metrics.json")
    return "\n".join(lines).rstrip()


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of a run, {} where there is none yet. Raises FusionerError where it is no JSON object."""
    file = folder / "metrics.json"
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FusionerError(f"{file} is no JSON ({error}): remove it and run the notebooks again") from error
    if not isinstance(values, dict):
        raise FusionerError(f"{file} holds a {type(values).__name__}, not an object: remove it and run again")
    return values


def notebooks_of(folder: Path) -> list[Ran]:
    """The notebooks of a run by name: those of its profile, and any other that was executed into it."""
    stems = {file.stem for file in (folder / "notebooks").glob("*.ipynb")}
    profile = folder / "profile.json"
    if profile.is_file():
        stems |= set(json.loads(profile.read_text(encoding="utf-8")).get("notebooks", {}))
    return [_ran(folder / "notebooks" / f"{stem}.ipynb") for stem in sorted(stems)]


def failures(folder: Path) -> dict[str, str]:
    """Name to problem for each notebook of a run that started and did not reach its end."""
    return {ran.stem: str(ran.problem) for ran in notebooks_of(folder) if ran.failed}


def write_site(folder: Path) -> Path:
    """Write ``pages/*.html``, one a notebook, and ``index.html``, whose path is returned."""
    folder = folder.resolve()
    ran = notebooks_of(folder)
    for notebook in ran:
        executed = folder / "notebooks" / f"{notebook.stem}.ipynb"
        if executed.is_file() and notebook.problem != "no notebook":
            write_page(executed, folder / "pages" / f"{notebook.stem}.html")
    index = folder / "index.html"
    index.write_text(index_page(folder, ran), encoding="utf-8")
    return index


def index_page(folder: Path, ran: Iterable[Ran]) -> str:
    """The run on one page that needs no other file to be read (the links to the notebooks' pages apart)."""
    ran = list(ran)
    parts = [f"<h1>{_e(folder.name)}</h1>", _verdict(ran)]
    results = tables(read_metrics(folder))
    parts += ["<h2>Results</h2>", *map(_html_table, results)] if results else ["<p>No result was measured yet.</p>"]
    parts += ["<h2>Notebooks</h2>", "<ul class='notebooks'>", *(_item(one, folder) for one in ran), "</ul>"]
    figures = sorted((folder / "figures").glob("*.png"))
    parts += ["<h2>Figures</h2>", "<div class='figures'>", *map(_figure, figures), "</div>"] if figures else []
    records = [file for file in _records(folder) if file.is_file()]
    parts += ["<h2>Record</h2>", *(_record(file, folder) for file in records)] if records else []
    style = resources.files("fusionerlib").joinpath("report.css").read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(folder.name)} - Fusioner</title><style>\n{style}</style>"
    )
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _rows(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, dict[str, Any]]]:
    leaves = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    if any(not isinstance(value, str) for value in leaves.values()):
        yield ".".join(path) or "run", leaves
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, (*path, str(name)))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}" if value.is_integer() else f"{value:.1f}"
    return str(value)


def _ran(file: Path) -> Ran:
    if not file.is_file():
        return Ran(file.stem, file.stem, None, "not run")
    try:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        cells, metadata = notebook["cells"], notebook["metadata"].get("papermill", {})
    except (ValueError, KeyError):
        return Ran(file.stem, file.stem, None, "no notebook")
    told = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    titles = [line[2:].strip() for text in told for line in text.splitlines() if line.startswith("# ")]
    errors = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    problem = None
    if errors:
        problem = f"{errors[0]['ename']}: {errors[0]['evalue']}"
    elif metadata.get("end_time") is None:
        problem = "did not reach its end"
    return Ran(file.stem, titles[0] if titles else file.stem, metadata.get("duration"), problem)


def _e(value: Any) -> str:
    return html.escape(str(value))


def _verdict(ran: list[Ran]) -> str:
    failed = [one for one in ran if one.failed]
    waiting = [one for one in ran if one.problem == "not run"]
    if failed:
        told = "".join(f"<li><b>{_e(one.stem)}</b>: <code>{_e(one.problem)}</code></li>" for one in failed)
        return f"<div class='bad'><p>{len(failed)} of {len(ran)} notebooks failed:</p><ul>{told}</ul></div>"
    if waiting:
        return f"<div class='bad'><p>{len(waiting)} of {len(ran)} notebooks did not run yet.</p></div>"
    seconds = sum(one.seconds or 0.0 for one in ran)
    return f"<p class='good'>All {len(ran)} notebooks ran to their end, {seconds:.0f} s of work in sum.</p>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_e(column)}</th>" for column in ("", *table.columns))
    rows = (
        f"<tr><th>{_e(name)}</th>" + "".join(f"<td>{_e(cell)}</td>" for cell in cells) + "</tr>"
        for name, cells in table.rows
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _item(one: Ran, folder: Path) -> str:
    page = folder / "pages" / f"{one.stem}.html"
    name = f"<a href='pages/{_e(one.stem)}.html'>{_e(one.title)}</a>" if page.is_file() else _e(one.title)
    told = f"<span class='bad'>{_e(one.problem)}</span>" if one.problem else f"{one.seconds or 0:.0f} s"
    return f"<li>{name} <small>{_e(one.stem)}, {told}</small></li>"


def _figure(file: Path) -> str:
    from PIL import Image

    caption = _e(file.stem.replace("_", " "))
    try:
        with Image.open(file) as image:
            scale = min(1.0, FIGURE_WIDTH / image.width)
            buffer = io.BytesIO()
            smaller = image.resize((round(image.width * scale), round(image.height * scale))) if scale < 1 else image
            smaller.save(buffer, format="PNG", optimize=True)
    except OSError:
        return f"<figure><figcaption>{caption} can't be shown: {_e(file.name)} is no image</figcaption></figure>"
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><img src='data:image/png;base64,{data}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"
    )


def _records(folder: Path) -> list[Path]:
    top = sorted(file for file in folder.glob("*.json") if file.name != "metrics.json")
    return [*top, folder / "checkpoint" / "config.json", *sorted((folder / "records").glob("*.json"))]


def _record(file: Path, folder: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    kept = text if len(text) <= 20_000 else text[:20_000] + "\n..."
    return f"<details><summary>{_e(file.relative_to(folder))}</summary><pre>{_e(kept)}</pre></details>"
