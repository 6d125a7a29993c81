"""The page of a run: one HTML file, with everything inside, that asks the network for nothing.

``page.html`` is its template, ``page.css`` its style.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusionerlib.evaluation.metrics import metric_label
from studies.published import HOLE
from workbook.report import captions, figures
from workbook.report.comparison import OURS, compared_with_published
from workbook.report.first_look import NAME as FIRST_LOOK
from workbook.report.notebook_pages import POLICY, write_page
from workbook.report.records import (
    NotebookRun,
    facts_of,
    listed,
    notebooks_of,
    read_metrics,
    read_object,
    record_files,
    run_settings,
    settings_of,
    tables,
)
from workbook.sharing import clone_around, places_of, shareable_text

RECORD_CHARACTERS, MOST_RECORDS = 10_000, 40
"""At most so many characters of a record, and so many records, are on the page, which stays under 10 MB."""

BROAD = 1200
"""A figure wider than this, in pixels, takes the whole width of the page: at half of it its text is too small."""

NUMBER = re.compile(rf"[-+]?[\d.,]*( ± [\d.]+)?|{HOLE}|nan|True|False")
"""A cell of a column of numbers."""


def write_site(folder: Path, *, missing: bool = False) -> Path:
    """Write ``pages/*.html``, one a notebook, and ``index.html``, whose path is returned.

    missing: leave the pages that are newer than their notebook as they are.
    """
    folder = folder.resolve()
    ran = notebooks_of(folder)
    stems = [notebook.stem for notebook in ran if notebook.problem not in ("not run", "no notebook")]
    for notebook in ran:
        executed = folder / "notebooks" / f"{notebook.stem}.ipynb"
        page = folder / "pages" / f"{notebook.stem}.html"
        made = missing and page.is_file() and page.stat().st_mtime > executed.stat().st_mtime
        if executed.is_file() and notebook.problem != "no notebook" and not made:
            write_page(executed, page, stems=stems)
    index = folder / "index.html"
    index.write_text(index_page(folder, ran), encoding="utf-8")
    return index


def index_page(folder: Path, ran: Iterable[NotebookRun]) -> str:
    """The run on one page of less than 10 MB; other files are only linked.

    Raises FusionerError where metrics.json is no JSON object.
    """
    ran, metrics = list(ran), read_metrics(folder)
    compared = compared_with_published(folder, metrics) if metrics else []
    facts, settings = facts_of(folder, ran), settings_of(folder)
    pictures, records = figures.figures_of(folder), record_files(folder)
    best, beside = captions.chosen(pictures)
    first = [file for file in (best, *beside) if file is not None]
    rest = [file for file in pictures if file not in first]
    listed_first = [*first, *rest]
    embedded = {one.file: one for one in figures.shown(listed_first[: figures.MOST])}
    present = {
        "What ran": facts or settings,
        "Results": True,
        "Published results": compared,
        "Notebooks": ran,
        "Figures": rest,
        "Records": records,
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["shortened"] = _shortened
    page = environment.get_template("page.html").render(
        name=folder.name,
        policy=POLICY,
        style=(Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
        menu=[title for title, content in present.items() if content],
        ran=ran,
        failed=[one for one in ran if one.failed],
        waiting=[one for one in ran if one.problem == "not run"],
        seconds=sum(one.seconds or 0.0 for one in ran),
        recorded=[file.stem for file in sorted((folder / "records").glob("[0-9]*.json"))],
        facts_found=facts,
        settings=settings,
        results=[
            {
                "group": one.rows[0][0].split(".")[0],
                "columns": ["", *map(metric_label, one.columns)],
                "rows": [(metric_label(name), *cells) for name, cells in one.rows],
            }
            for one in tables(metrics)
        ],
        compared=compared,
        covered={one.covers for one in compared},
        ours=OURS,
        headline=captions.headline(run_settings(folder), metrics),
        best=embedded.get(best) if best else None,
        beside=[embedded[file] for file in beside],
        figures=[embedded[file] for file in rest if file in embedded],
        other_figures=[file for file in rest if file not in embedded],
        caption=captions.caption,
        first_look=(folder / FIRST_LOOK).is_file() and FIRST_LOOK,
        broad=BROAD,
        records=[(file.relative_to(folder).as_posix(), _record_text(file)) for file in records[:MOST_RECORDS]],
        other_records=max(0, len(records) - MOST_RECORDS),
        word_columns=_word_columns,
        exists=lambda path: (folder / path).is_file(),
        parameters=lambda one: listed({key: value for key, value in one.given.items() if key != "run_dir"}),
    )
    # Settings and tracebacks name files and folders of this machine.
    named = [read_object(file) for file in records]
    places = places_of(clone_around(folder).resolve(), (folder / "index.html").absolute(), named)
    return f"{shareable_text(page, places)}\n"


def _word_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column whether it holds words: they wrap to the left, so that figures stay on a phone's screen."""
    return [
        place == 0 or not all(NUMBER.fullmatch(row[place]) for row in rows)
        for place in range(len(rows[0]) if rows else 0)
    ]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def _record_text(file: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    return text if len(text) <= RECORD_CHARACTERS else f"{text[:RECORD_CHARACTERS]}\n..."
