"""The page of a run: one file that asks the network for nothing and needs no other file to be read."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fusionerlib.evaluation.metrics import metric_label
from workbook.report import figures
from workbook.report.comparison import OURS, Beside, beside_published
from workbook.report.executed import Ran, notebooks_of
from workbook.report.markup import escaped, facts, folded, lines_table, link, table
from workbook.report.notebook_pages import POLICY, write_page
from workbook.report.results import Table, read_metrics, record_files, tables
from workbook.report.what_ran import facts_of, given, settings_of

RECORD_CHARACTERS, MOST_RECORDS = 10_000, 40
"""Records are shown in full up to so many characters, and so many of them: the page stays under 10 MB."""

REASON_CHARACTERS = 2_000
"""Of an error's message."""

TRACEBACK_CHARACTERS = 6_000
"""The end of a traceback, where the error is."""

BROAD = 900
"""A figure wider than this, in pixels, takes the whole width of the page: at half of it its text is too small."""

QUOTED = (
    "Published rows are quoted as they were printed, none was run here: the paper's own from the paper, and those of "
    "other systems as the paper, or the later work that is named, reports them. A dash is a figure that was not "
    "published, or that this run did not measure."
)


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
    """The run on one page of less than 10 MB; only its links lead to other files.

    Raises FusionerError where metrics.json is no JSON object.
    """
    ran = list(ran)
    metrics = read_metrics(folder)
    paper = beside_published(folder, metrics) if metrics else []
    sections = {
        "What ran": _what_ran(folder, ran),
        "Results": _results(metrics, covered={one.covers for one in paper}),
        "Beside the paper": _paper(paper),
        "Notebooks": _notebooks(folder, ran),
        "Figures": _figures(folder),
        "Records": _records(folder),
    }
    kept = {title: content for title, content in sections.items() if content}
    places = {title: title.lower().replace(" ", "-") for title in kept}
    menu = "".join(f"<a href='#{place}'>{title}</a>" for title, place in places.items())
    parts = [f"<h1>{escaped(folder.name)}</h1>", _verdict(folder, ran), f"<nav aria-label='On this page'>{menu}</nav>"]
    parts += [f"<section id='{places[title]}'><h2>{title}</h2>{content}</section>" for title, content in kept.items()]
    style = (resources.files("workbook.report") / "report.css").read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(folder.name)} - Fusioner</title><style>\n{style}</style>"
    )
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _verdict(folder: Path, ran: Sequence[Ran]) -> str:
    failed = [one for one in ran if one.failed]
    waiting = [one for one in ran if one.problem == "not run"]
    if not ran:
        stems = ", ".join(file.stem for file in sorted((folder / "records").glob("[0-9]*.json")))
        left = f" Those that left their records: {escaped(stems)}." if stems else ""
        return f"<p>No executed notebook lies here.{left}</p>"
    if not failed and not waiting:
        seconds = sum(one.seconds or 0.0 for one in ran)
        return f"<p class='good'>All {len(ran)} notebooks ran to their end, {seconds:,.0f} s of work in sum.</p>"
    told = "".join(map(_failure, failed))
    parts = [f"<p>{len(failed)} of {len(ran)} notebooks failed:</p><ul>{told}</ul>"] if failed else []
    stems = ", ".join(one.stem for one in waiting)
    parts += [f"<p>{len(waiting)} of {len(ran)} notebooks did not run yet: {escaped(stems)}.</p>"] if waiting else []
    return f"<div class='bad'>{''.join(parts)}</div>"


def _failure(one: Ran) -> str:
    told = str(one.problem)
    reason = told if len(told) <= REASON_CHARACTERS else f"{told[:REASON_CHARACTERS]} ..."
    last = one.traceback[-TRACEBACK_CHARACTERS:]
    where = folded("where", f"<pre>{escaped(last)}</pre>") if last else ""
    return f"<li><b>{escaped(one.stem)}</b>: <code>{escaped(reason)}</code>{where}</li>"


def _what_ran(folder: Path, ran: Sequence[Ran]) -> str:
    told, settings = facts_of(folder, ran), settings_of(folder)
    lists = [f"<div><h3>{escaped(name)}</h3>{facts(dict(rows))}</div>" for name, rows in settings.items()]
    every = folded("Every setting", f"<div class='settings'>{''.join(lists)}</div>", printed=True) if lists else ""
    return (facts(told) if told else "") + every


def _results(metrics: Mapping[str, Any], *, covered: set[str]) -> str:
    found = tables(metrics)
    if not found:
        return "<p>No result was measured yet.</p>"
    note = (
        "<p class='note'>As the notebooks wrote them into metrics.json: shares and IoU from 0 to 1, encoder_pairs and "
        "transfer in percent. Tables beside the paper are in percent.</p>"
    )
    return note + "".join(map(_measured, found, [covered] * len(found)))


def _measured(one: Table, covered: set[str]) -> str:
    group = one.rows[0][0].split(".")[0]
    columns = ["", *(metric_label(column) for column in one.columns)]
    whole = table(columns, [(metric_label(name), *cells) for name, cells in one.rows])
    # What stands beside the paper below is not shown twice.
    return folded(f"{group}: {len(one.rows)} rows", whole) if group in covered else whole


def _paper(found: Sequence[Beside]) -> str:
    if not found:
        return ""
    parts = [f"<p class='note'>{QUOTED}</p>"]
    for one in found:
        note = f"<p class='note'>{escaped(one.note)}</p>" if one.note else ""
        content = note + (lines_table(one.lines, ours=OURS) if one.lines else "")
        parts.append(
            folded(one.title, content, printed=True) if one.folded else f"<h3>{escaped(one.title)}</h3>{content}"
        )
    return "".join(parts)


def _notebooks(folder: Path, ran: Sequence[Ran]) -> str:
    return f"<ul class='notebooks'>{''.join(_notebook(one, folder) for one in ran)}</ul>" if ran else ""


def _notebook(one: Ran, folder: Path) -> str:
    page, source = Path("pages", f"{one.stem}.html"), Path("notebooks", f"{one.stem}.ipynb")
    name = link(page.as_posix(), one.title) if (folder / page).is_file() else escaped(one.title)
    # A message may be long, and the top of the page has it.
    state = "failed" if one.failed else one.problem or f"{one.seconds or 0:.0f} s"
    told = f"<span class='{'bad' if one.problem else ''}'>{escaped(state)}</span>"
    file = link(source.as_posix(), source.name) if (folder / source).is_file() else escaped(one.stem)
    parameters = given({key: value for key, value in one.given.items() if key != "run_dir"})
    return f"<li>{name} <small>{file}, {told}</small>" + (
        f"<br><small>{escaped(parameters)}</small></li>" if parameters else "</li>"
    )


def _figures(folder: Path) -> str:
    files = figures.figures_of(folder)
    if not files:
        return ""
    parts = [_figure(one, folder) for one in figures.shown(files[: figures.MOST])]
    others = "".join(f"<li>{link(f'figures/{file.name}', file.name)}</li>" for file in files[figures.MOST :])
    more = f"<p>Not shown, so that the page stays small:</p><ul>{others}</ul>" if others else ""
    return f"<div class='figures'>{''.join(parts)}</div>{more}"


def _figure(one: figures.Shown, folder: Path) -> str:
    file = one.file.relative_to(folder).as_posix()
    caption = one.file.stem.replace("_", " ")
    if one.data is None:
        return f"<figure><figcaption>{escaped(caption)} can't be shown: {escaped(one.file.name)}</figcaption></figure>"
    width, height = one.size
    picture = f"<img src='{one.uri}' alt='{escaped(caption)}' width='{width}' height='{height}' decoding='async'>"
    kind = " class='broad'" if width > BROAD else ""
    return f"<figure{kind}>{picture}<figcaption>{link(file, caption)}</figcaption></figure>"


def _records(folder: Path) -> str:
    files = record_files(folder)
    parts = [_record(file, folder) for file in files[:MOST_RECORDS]]
    others = len(files) - len(parts)
    return "".join(parts) + (f"<p>... and {others} more in the folder records</p>" if others else "")


def _record(file: Path, folder: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    kept = text if len(text) <= RECORD_CHARACTERS else f"{text[:RECORD_CHARACTERS]}\n..."
    name = file.relative_to(folder).as_posix()
    return folded(name, f"<p>{link(name, 'the file')}</p><pre>{escaped(kept)}</pre>")
