"""The command line ``fusioner``. Each command imports what it needs, so that ``--help`` is quick."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fusionerlib.errors import FusionerError


class _Commands(TyperGroup):
    """Commands whose errors for people are one message on stderr and exit status 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FusionerError as error:
            typer.echo(f"fusioner: {error}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data = typer.Typer(no_args_is_help=True)
app.add_typer(data, name="data", help="Make the data that a run reads.")


@app.callback()
def fusioner() -> None:
    """Open-vocabulary segmentation with frozen encoders."""


@app.command()
def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    names: Annotated[list[str], typer.Argument(help='What to look for: "cat" "blue sofa" ...')],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the overlay goes.")] = Path("overlay.png"),
    checkpoint: Annotated[str, typer.Option(help="A checkpoint's folder, or the name of a run.")] = "demo",
    threshold: Annotated[float, typer.Option(help="Background where no probability exceeds it.")] = 0.5,
) -> None:
    """Segment PHOTO into NAMES and draw the masks over it."""
    from fusionerlib.inference import Segmenter

    found = Segmenter.load(checkpoint).set_image(photo).segment(names, threshold=threshold)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        found.overlay().convert("RGB").save(output)
    except (ValueError, OSError) as error:
        raise FusionerError(f"{output} can't be written ({error}): give a path that ends in .png or .jpg") from error
    for name, mask in zip(found.names, found.masks, strict=True):
        typer.echo(f"{float(mask.mean()):7.1%}  {name}")
    typer.echo(f"overlay: {output}")


@app.command()
def encoders() -> None:
    """List the frozen encoders."""
    from fusionerlib.encoders.registry import list_encoders

    columns = ("role", "name", "family", "space", "width", "stride", "licence")
    grid = [columns, *(tuple(str(getattr(row, column)) for column in columns) for row in list_encoders())]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    for row in grid:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


@data.command("openmoji")
def data_openmoji(
    root: Annotated[Path, typer.Option(help="The folder to draw into.")] = Path("data/openmoji"),
    seed: Annotated[int, typer.Option(help="Decides every picture.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="objects=100")] = None,
    record: Annotated[Path | None, typer.Option(help="Also write what was made to this JSON file.")] = None,
) -> None:
    """Draw the OpenMoji scenes in the FSS-1000 layout; nothing to do where ROOT holds them already."""
    from fusionerlib.datasets import openmoji
    from fusionerlib.files import write_text
    from fusionerlib.runs import parsed

    given = {name: parsed(value) for name, value in pairs(settings or []).items()}
    splits = openmoji.build(root, **{"seed": seed, **given})
    counts = {split: len(getattr(splits, split)) for split in ("train", "combinations", "objects")}
    if record is not None:
        made = {"root": str(root), "recipe": splits.recipe.model_dump(), "digest": splits.digest, "classes": counts}
        write_text(record, json.dumps(made, indent=1))
    typer.echo(f"{root}: " + ", ".join(f"{count} classes in {split}" for split, count in counts.items()))


@app.command()
def run(
    profile: Annotated[str, typer.Argument(help="smoke, demo, full, or the path of a profile's .json file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would run.")] = False,
    cores: Annotated[int | None, typer.Option(min=1, help="How many to use at once (all of them).")] = None,
    output: Annotated[Path | None, typer.Option(help="The run's folder (outputs/PROFILE).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="steps=200, 02_training.steps=200, data.seed=1"),
    ] = None,
) -> None:
    """Run the notebooks of PROFILE; what is done already stays, a stopped run goes on."""
    from fusionerlib.report import read_metrics, terminal_table
    from fusionerlib.runs import run_profile

    folder = run_profile(profile, output=output, overrides=pairs(settings or []), dry_run=dry_run, cores=cores)
    if not dry_run:
        results = terminal_table(read_metrics(folder)) or "no result was measured"
        typer.echo(f"\n{results}\n\nopen {folder / 'index.html'}")


@app.command()
def notebook(
    source: Annotated[str, typer.Argument(metavar="NOTEBOOK", help="A notebook's path, or its name in notebooks/.")],
    output: Annotated[Path, typer.Argument(help="Where the executed notebook goes.")],
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="One parameter.")] = None,
    parameters: Annotated[str, typer.Option(metavar="JSON", help="Parameters as one JSON object.")] = "{}",
) -> None:
    """Execute one notebook; an unknown parameter stops it before it starts."""
    from fusionerlib.execution import execute_notebook
    from fusionerlib.runs import find_checkout, parsed

    path = Path(source) if source.endswith(".ipynb") else find_checkout() / "notebooks" / f"{source}.ipynb"
    try:
        given = dict(json.loads(parameters))
    except (ValueError, TypeError) as error:
        raise FusionerError(f"--parameters {parameters!r} is no JSON object: write '{{\"steps\": 20}}'") from error
    given |= {name: parsed(value) for name, value in pairs(parameter or []).items()}
    execute_notebook(path, output, parameters=given)


@app.command()
def pages(folder: Annotated[Path, typer.Argument(help="The run's folder, such as outputs/demo.")]) -> None:
    """Write the HTML pages and the index of a run again."""
    from fusionerlib.report import write_site

    if not folder.is_dir():
        raise FusionerError(f"no folder {folder}: give the folder of a run, such as outputs/demo")
    typer.echo(write_site(folder))


def pairs(settings: list[str]) -> dict[str, str]:
    """``["a=1", "b=x=y"]`` as ``{"a": "1", "b": "x=y"}``; FusionerError for one without a name or a "="."""
    for setting in settings:
        if setting.find("=") < 1:
            raise FusionerError(f"{setting!r} sets nothing: write NAME=VALUE, such as steps=200")
    return dict(setting.split("=", 1) for setting in settings)


if __name__ == "__main__":
    app()
