"""The command line ``fusioner``. Each command imports what it needs, so that ``--help`` is quick."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fusionerlib.cli.data import data, pairs
from fusionerlib.cli.train import train
from fusionerlib.errors import FusionerError
from studies.paper_grid.commands import grid, grid_job


class _Commands(TyperGroup):
    """Commands whose errors for people are one message on stderr and exit status 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FusionerError as error:
            typer.echo(f"fusioner: {error}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data, name="data", help="Make the data that a run reads, or bring published data into their layout.")
app.command()(train)
app.command()(grid)
app.command("grid-job", hidden=True)(grid_job)


@app.callback()
def fusioner() -> None:
    """Open-vocabulary segmentation with frozen encoders."""


@app.command()
def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    names: Annotated[list[str], typer.Argument(help='What to look for: "cat" "blue sofa" ...')],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the overlay goes.")] = Path("overlay.png"),
    checkpoint: Annotated[str, typer.Option(help="A checkpoint's folder, or the name of a run.")] = "packaged",
    threshold: Annotated[float, typer.Option(help="Background where no probability exceeds it.")] = 0.5,
    sliding: Annotated[
        bool, typer.Option("--sliding", help="Slide windows over the photo's own pixels: slower, for small things.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Segment PHOTO into NAMES and draw the masks over it."""
    from fusionerlib.devices import chosen_device
    from fusionerlib.inference.segmenter import Segmenter

    segmenter = Segmenter.load(checkpoint, sliding=sliding, device=str(chosen_device(device)))
    found = segmenter.set_image(photo).segment(names, threshold=threshold)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        found.overlay().convert("RGB").save(output)
    except (ValueError, OSError) as error:
        raise FusionerError(f"{output} can't be written ({error}): give a path that ends in .png or .jpg") from error
    for name, mask in zip(found.names, found.masks, strict=True):
        typer.echo(f"{float(mask.mean()):7.1%}  {name}")
    typer.echo(f"overlay: {output}")


@app.command()
def checkpoint(
    voc: Annotated[Path, typer.Option(help="The folder that holds VOCdevkit.")] = Path("data/pascal"),
    coco: Annotated[Path, typer.Option(help="The folder that holds COCO's annotations.")] = Path("data/coco"),
    output: Annotated[Path, typer.Option("-o", "--output", help="Where it goes.")] = Path("outputs/packaged"),
    steps: Annotated[int, typer.Option(help="Training steps.")] = 600,
    size: Annotated[int, typer.Option(help="Pixels of the input's sides.")] = 320,
    fold: Annotated[int, typer.Option(help="A fold of PASCAL-5i to hold out, -1 for none.")] = -1,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    features: Annotated[Path, typer.Option(help="Where frozen features are kept.")] = Path("data/features"),
) -> None:
    """Train the packaged checkpoint again from photographs of PASCAL VOC and COCO."""
    from fusionerlib import packaged

    run = packaged.recipe(voc=voc, coco=coco, features=features, steps=steps, size=size, fold=fold, seed=seed)
    typer.echo(f"checkpoint: {packaged.rebuild(run, output)}")


@app.command()
def encoders(
    as_json: Annotated[bool, typer.Option("--json", help="For machines: every row with its files.")] = False,
) -> None:
    """List the frozen encoders, and which of them are on this machine."""
    from fusionerlib.encoders import registry

    typer.echo(json.dumps(registry.records(), indent=1) if as_json else registry.overview())


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="An encoder's name, see `fusioner encoders`.")],
    role: Annotated[str, typer.Option(help="visual or text, where NAME is both and one will do.")] = "",
) -> None:
    """Download the weights of an encoder; those that are here already stay."""
    from fusionerlib.encoders import weights
    from fusionerlib.encoders.registry import rows_named

    for row in rows_named(name, role):
        files = weights.fetch(row)
        typer.echo(f"{row.role} {row.name}: " + (f"{weights.locate(row)}" if files else "nothing to download"))


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
    from workbook.graph import run_profile
    from workbook.report import read_metrics, terminal_table

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
    from workbook.execution import execute_notebook
    from workbook.graph import find_checkout, parsed

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
    from workbook.report import write_site

    if not folder.is_dir():
        raise FusionerError(f"no folder {folder}: give the folder of a run, such as outputs/demo")
    typer.echo(write_site(folder))


if __name__ == "__main__":
    app()
