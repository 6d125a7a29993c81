"""The commands ``fusioner run``, ``notebook``, ``quickstart``, ``clean`` and ``pages``.

They are entry points of the group ``fusioner.commands``. The first line of each docstring is its line in the help.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from fusionerlib.cli.settings import pairs, parsed
from fusionerlib.errors import FusionerError


def run(
    profile: Annotated[str, typer.Argument(help="smoke, demo, full, or the path of a profile's .json file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only print what would run.")] = False,
    cores: Annotated[int | None, typer.Option(min=1, help="How many processor cores to use; all if not given.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run's folder; outputs/PROFILE if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A parameter: steps=200, 02_training.steps=200, data.seed=1"),
    ] = None,
) -> None:
    """Run the notebooks of PROFILE; finished ones are kept, and a stopped run continues."""
    from workbook.graph import run_profile
    from workbook.report import read_metrics, terminal_table

    folder = run_profile(profile, output=output, overrides=pairs(settings or []), dry_run=dry_run, cores=cores)
    if not dry_run:
        results = terminal_table(read_metrics(folder)) or "no results yet"
        typer.echo(f"\n{results}\n\nopen {folder / 'index.html'}")


def notebook(
    source: Annotated[str, typer.Argument(metavar="NOTEBOOK", help="A notebook's path, or its name in notebooks/.")],
    output: Annotated[Path, typer.Argument(help="Where the executed notebook goes.")],
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="One parameter.")] = None,
    parameters: Annotated[str, typer.Option(metavar="JSON", help="Parameters as one JSON object.")] = "{}",
) -> None:
    """Execute one notebook with papermill; an unknown parameter is refused before it starts."""
    from workbook.clone import find_clone
    from workbook.execution import execute_notebook

    path = Path(source) if source.endswith(".ipynb") else find_clone() / "notebooks" / f"{source}.ipynb"
    try:
        given = dict(json.loads(parameters))
    except (ValueError, TypeError, RecursionError) as error:
        raise FusionerError(
            f"--parameters {parameters[:200]!r} is no JSON object: write '{{\"steps\": 20}}'"
        ) from error
    given |= {name: parsed(value) for name, value in pairs(parameter or []).items()}
    execute_notebook(path, output, parameters=given)


def quickstart(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the page.")] = Path("outputs/quickstart"),
) -> None:
    """Segment sample photographs with the packaged checkpoint, as one page."""
    from workbook.report.first_look import write_first_look

    typer.echo(f"open {write_first_look(output).resolve()}")


def clean(
    what: Annotated[
        list[str] | None, typer.Argument(help="features, drawings, training, docs; none: only list.")
    ] = None,
) -> None:
    """List what takes disk and can be made again, or delete it: fusioner clean features"""
    from fusionerlib.progress import size_text
    from workbook.cleaning import PARTS, remove, sizes
    from workbook.clone import find_clone

    clone = find_clone()
    if what:
        typer.echo(f"freed {size_text(remove(what, clone=clone))}")
        return
    for name, (_, size) in sizes(clone).items():
        typer.echo(f"{name:9} {size_text(size):>8}  {PARTS[name][1]}")
    typer.echo("`fusioner clean NAME ...` deletes; data sets, checkpoints and reports are never touched")


def pages(
    folder: Annotated[Path, typer.Argument(help="The run's folder, such as outputs/demo.")],
    missing: Annotated[bool, typer.Option("--missing", help="Keep pages newer than their notebook.")] = False,
) -> None:
    """Write the report of a run again: its page and one page a notebook."""
    from workbook.report import write_site

    if not folder.is_dir():
        raise FusionerError(f"no folder {folder}: give the folder of a run, such as outputs/demo")
    typer.echo(write_site(folder, missing=missing))
