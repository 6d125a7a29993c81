"""What a run left on disk, read for people: metrics, executed notebooks, and the settings and versions in its records.

The JSON files of a run: ``metrics.json``, one record a notebook, the data's, the profile, the checkpoint's config.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from fusionerlib.digests import read_json, unsealed
from fusionerlib.evaluation.metrics import metric_label
from studies.published import HOLE

Values = Mapping[str, Any]

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Colour codes of a terminal, as tracebacks have them."""

COUNTS = {"train_scenes": "training scenes", "eval_scenes": "scenes per test"}
TRAINING = {"loss": "loss", "lr": "learning rate", "feed": "features", "mixed_precision": "mixed precision"}
"""Settings that the summary of a run names, and what it calls them."""


@dataclass(frozen=True)
class Table:
    """Rows of measured results that share their columns: the name of each row, and its cells as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class NotebookRun:
    """One notebook of a run.

    problem: None where it ran to its end, "not run" where it has not been executed.
    given: the parameters that it was called with. began, ended: as papermill writes them (ISO 8601, UTC), "" for never.
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


def read_metrics(folder: Path) -> dict[str, Any]:
    """``metrics.json`` of a run, {} where there is none yet. Raises FusionerError where it is damaged."""
    file = folder / "metrics.json"
    if not file.is_file():
        return {}
    return read_json(file, what="a run's metrics", remedy="remove it and run the notebooks again")


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; {} where the file is missing, broken or holds something else.

    For the summary on the page: a gap in it is better than no page, and the page shows the file itself too.
    """
    try:
        return unsealed(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}


def part(values: Any, *keys: str) -> dict[str, Any]:
    """The object at ``keys`` inside nested ones, {} where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def tables(metrics: Values) -> list[Table]:
    """Nested results as tables: one row for every dict that holds numbers, neighbours of equal keys in one table."""
    found: list[Table] = []
    for name, values in _rows(metrics, ()):
        columns, cells = tuple(values), tuple(shown(value) for value in values.values())
        if found and found[-1].columns == columns:
            found[-1] = Table(columns, (*found[-1].rows, (name, cells)))
        else:
            found.append(Table(columns, ((name, cells),)))
    return found


def terminal_table(metrics: Values, *, most: int = 24) -> str:
    """The results as text for a terminal, at most ``most`` rows; metrics.json holds the rest."""
    text = StringIO()
    # Logs and pipes have no width of their own; below 120 characters words would be cut.
    console = Console(file=text, width=max(120, shutil.get_terminal_size((200, 24)).columns))
    rows = 0
    for table in tables(metrics):
        kept = table.rows[: max(0, most - rows)]
        if kept:
            console.print(_terminal_table(table.columns, kept), "")
        rows += len(table.rows)
    if rows > most:
        console.print(f"... and {rows - most} more rows in metrics.json")
    return text.getvalue().rstrip()


def _terminal_table(columns: Sequence[str], rows: Iterable[tuple[str, tuple[str, ...]]]) -> TerminalTable:
    grid = TerminalTable(box=None, pad_edge=False)
    grid.add_column(no_wrap=True)
    for column in columns:
        grid.add_column(Text(metric_label(column)), justify="right")
    for name, cells in rows:
        grid.add_row(Text(name), *map(Text, cells))
    return grid


def shown(value: Any) -> str:
    """A number as a table shows it: three decimals below 100, thousands apart, a dash for NaN."""
    if isinstance(value, float):
        if math.isnan(value):
            return HOLE
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}" if value.is_integer() else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _rows(values: Values, path: tuple[str, ...]) -> Iterable[tuple[str, dict[str, Any]]]:
    leaves = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    if any(not isinstance(value, str) for value in leaves.values()):
        yield ".".join(path) or "run", leaves
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, (*path, str(name)))


def notebooks_of(folder: Path) -> list[NotebookRun]:
    """The notebooks of a run by name: those of its profile, and any other that was executed into it."""
    stems = {file.stem for file in (folder / "notebooks").glob("*.ipynb")}
    stems |= set(part(read_object(folder / "profile.json"), "notebooks"))
    return [_notebook_run(folder / "notebooks" / f"{stem}.ipynb") for stem in sorted(stems)]


def failures(folder: Path) -> dict[str, str]:
    """Name to problem for each notebook of a run that started and did not reach its end."""
    return {notebook.stem: str(notebook.problem) for notebook in notebooks_of(folder) if notebook.failed}


def _notebook_run(file: Path) -> NotebookRun:
    if not file.is_file():
        return NotebookRun(file.stem, file.stem, problem="not run")
    try:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        cells, metadata = notebook["cells"], notebook["metadata"].get("papermill", {})
    except (ValueError, KeyError):
        return NotebookRun(file.stem, file.stem, problem="no notebook")
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    titles = [line[2:].strip() for text in texts for line in text.splitlines() if line.startswith("# ")]
    errors = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    problem, traceback = None, ""
    if errors:
        problem = f"{errors[0]['ename']}: {errors[0]['evalue']}"
        traceback = COLOURS.sub("", "\n".join(errors[0].get("traceback", [])))
    elif metadata.get("end_time") is None:
        problem = "did not reach its end"
    return NotebookRun(
        file.stem,
        titles[0] if titles else file.stem,
        seconds=metadata.get("duration"),
        problem=problem,
        given=part(metadata, "parameters"),
        began=metadata.get("start_time") or "",
        ended=metadata.get("end_time") or "",
        traceback=traceback,
    )


def notebook_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records that notebooks wrote, by the notebook's name: those with a ``config``."""
    found = {file.stem: read_object(file) for file in sorted((folder / "records").glob("*.json"))}
    return {stem: record for stem, record in found.items() if part(record, "config")}


def record_files(folder: Path) -> list[Path]:
    """Every JSON file of the run but its metrics, those of the top folder first."""
    top = sorted(file for file in folder.glob("*.json") if file.name != "metrics.json")
    found = [*top, folder / "checkpoint" / "config.json", *sorted((folder / "records").glob("*.json"))]
    return [file for file in found if file.is_file()]


def run_settings(folder: Path) -> dict[str, Any]:
    """The sections of the run's config (pair, fusion, data, training), {} where nothing was trained."""
    trained = part(read_object(folder / "records" / "02_training.json"), "config", "run")
    return trained or part(read_object(folder / "checkpoint" / "config.json"), "run")


def settings_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Every setting, default or given: pairs of name and value by section of the config, then by notebook."""
    found = {f"{section} of the run": _pairs(values) for section, values in run_settings(folder).items()}
    for stem, record in notebook_records(folder).items():
        own = {key: value for key, value in part(record, "config").items() if key != "run"}
        found[f"notebook {stem}"] = _pairs(own)
    return {name: rows for name, rows in found.items() if rows}


def facts_of(folder: Path, ran: Sequence[NotebookRun]) -> dict[str, str]:
    """The run in words: model, encoders, data, training, seeds, versions, code and machine, each one line of text.

    What the records do not say is left out.
    """
    run, records = run_settings(folder), notebook_records(folder)
    environments = {stem: part(record, "environment") for stem, record in records.items()}
    measured = part(read_metrics(folder), "training")
    found = {
        "Run": _run(folder, ran),
        "Model": _model(part(run, "fusion"), measured),
        "Encoders": _encoders(part(run, "pair")),
        "Data": _data(part(run, "data"), folder),
        "Training": _training(part(run, "training"), measured),
        "Seeds": _seeds(records, folder),
        "Versions": _by_notebook({stem: _versions(one) for stem, one in environments.items()}),
        "Threads": _threads(environments),
        "Code": _by_notebook({stem: _code(part(one, "git")) for stem, one in environments.items()}),
        "Machine": _by_notebook({stem: _machine(one) for stem, one in environments.items()}),
    }
    return {name: text for name, text in found.items() if text}


def listed(values: Values) -> str:
    """Parameters on one line: ``steps 700, batch 16``."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _run(folder: Path, ran: Iterable[NotebookRun]) -> str:
    profile = read_object(folder / "profile.json").get("name")
    times = sorted(time for one in ran for time in (one.began, one.ended) if time)
    parts = [f"profile {profile}" if profile else "", _span(times[0], times[-1]) if times else ""]
    return ", ".join(filter(None, parts))


def _span(first: str, last: str) -> str:
    try:
        began, ended = datetime.fromisoformat(first), datetime.fromisoformat(last)
    except ValueError:
        return f"{first} to {last}"
    end = f"{ended:%H:%M}" if began.date() == ended.date() else f"{ended:%Y-%m-%d %H:%M}"
    return f"{began:%Y-%m-%d %H:%M} to {end} {began.tzname() or ''}".rstrip()


def _model(fusion: Values, measured: Values) -> str:
    if not fusion:
        return ""
    size = [f"{key} {fusion[key]}" for key in ("width", "depth", "heads") if key in fusion]
    count = f"{measured['parameters']:,} trainable parameters" if "parameters" in measured else ""
    return ", ".join(filter(None, [f"{fusion.get('kind')}, preset {fusion.get('preset')}", *size, count]))


def _encoders(pair: Values) -> str:
    if not pair:
        return ""
    leaves = ("affinity", "visual_tokens", "text_tokens", "visual_weights", "text_weights", "affinity_weights")
    extras = {key: pair.get(key) for key in leaves}
    named = listed({key: value for key, value in extras.items() if value})
    text = f"visual {pair.get('visual')}, text {pair.get('text')}, templates {pair.get('templates')}"
    return f"{text}, {named}" if named else text


def _data(data: Values, folder: Path) -> str:
    made = read_object(folder / "records" / "data.json")
    names = read_object(folder / "checkpoint" / "config.json").get("trained_names")
    parts = [f"{data['dataset']} from {data.get('root')}" if "dataset" in data else ""]
    parts += [f"input of {data['size']} x {data['size']} pixels" if "size" in data else ""]
    if data.get("dataset") == "openmoji":
        parts += [f"{shown(data.get(key))} {what}" for key, what in COUNTS.items() if key in data]
    elif "fold" in data:
        parts += [f"fold {data['fold']}" if data["fold"] != -1 else "no fold held out"]
    parts += [f"{len(names):,} names in training" if isinstance(names, list) else ""]
    parts += [f"sha256 of its files {str(made['digest'])[:12]}" if "digest" in made else ""]
    return ", ".join(filter(None, parts))


def _training(training: Values, measured: Values) -> str:
    if not training:
        return ""
    parts = [f"{shown(training.get('steps'))} steps of {training.get('batch')} images"]
    parts += [f"{name} {_plain(training[key])}" for key, name in TRAINING.items() if key in training]
    return ", ".join([*parts, f"last loss {measured['loss']:.3f}"] if "loss" in measured else parts)


def _seeds(records: Mapping[str, Values], folder: Path) -> str:
    made = part(read_object(folder / "records" / "data.json"), "recipe")
    found = {"drawn data": {"seed": made["seed"]}} if "seed" in made else {}
    found |= {stem: _seeds_in(part(record, "config")) for stem, record in records.items()}
    return "; ".join(f"{stem}: {listed(values)}" for stem, values in found.items() if values)


def _seeds_in(values: Values) -> dict[str, Any]:
    own = {key: value for key, value in values.items() if "seed" in key and not isinstance(value, Mapping)}
    for value in values.values():
        own |= _seeds_in(value) if isinstance(value, Mapping) else {}
    return own


def _versions(environment: Values) -> str:
    packages = {name: version for name, version in part(environment, "packages").items() if version}
    python = {"Python": environment["python"]} if "python" in environment else {}
    return listed({**python, **packages})


def _machine(environment: Values) -> str:
    found = part(environment, "machine")
    parts = [str(found.get("processor") or ""), f"{found['cores']} cores" if found.get("cores") else ""]
    parts += [
        f"{found['memory_gb']:g} GB memory" if found.get("memory_gb") else "",
        str(environment.get("platform", "")),
    ]
    return ", ".join(filter(None, parts))


def _threads(environments: Mapping[str, Values]) -> str:
    found = {stem: part(one, "machine").get("threads") for stem, one in environments.items()}
    return _by_notebook({stem: f"{count} a notebook" for stem, count in found.items() if count})


def _code(git: Values) -> str:
    if "commit" not in git:
        return ""
    return f"commit {str(git['commit'])[:12]}" + (", with uncommitted changes" if git.get("dirty") else "")


def _by_notebook(texts: Mapping[str, str]) -> str:
    """One text where all notebooks agree; else each text after the names of its notebooks."""
    different = list(dict.fromkeys(filter(None, texts.values())))
    if len(different) < 2:
        return "".join(different)
    stems = {text: ", ".join(stem for stem, own in texts.items() if own == text) for text in different}
    return "; ".join(f"{stems[text]}: {text}" for text in different)


def _pairs(values: Any) -> list[tuple[str, str]]:
    return [(str(key), _plain(value)) for key, value in values.items()] if isinstance(values, Mapping) else []


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)
