"""The command ``fusioner grid``, which runs the paper's 96 trainings, and the one that Snakemake calls for each."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fusionerlib.cli.settings import pairs
from fusionerlib.errors import FusionerError


def grid(
    more: Annotated[list[str] | None, typer.Argument(metavar="[-- OPTION...]", help="Options for Snakemake.")] = None,
    name: Annotated[str, typer.Option("--grid", help="paper, or the path of a grid's .json file.")] = "paper",
    output: Annotated[Path, typer.Option("-o", "--output", help="The grid's folder.")] = Path("outputs/grid"),
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only list what would run.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each; 0: cores divided by jobs.")] = 0,
    executor: Annotated[str, typer.Option(help="Executor plugin of Snakemake, such as slurm.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; default: a free GPU, else the CPU.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="root=data/pascal, steps=2000, folds=[1]")
    ] = None,
) -> None:
    """Train and evaluate the paper's grid: 12 pairs of encoders, early and late fusion, 4 folds of PASCAL-5i.

    Trainings that have a record are skipped, an interrupted one goes on, and one that fails does not stop the others.
    """
    from fusionerlib.cli.settings import parsed
    from studies.paper_grid.grid import Grid, run_grid

    given = {key: parsed(value) for key, value in pairs(settings or []).items()}
    chosen = Grid.load(name, given)
    if missing := chosen.missing():
        typer.echo(f"not on this machine: {', '.join(missing)}; `fusioner fetch NAME` downloads them", err=True)
    table = run_grid(
        chosen,
        output,
        dry_run=dry_run,
        jobs=jobs,
        threads=threads,
        executor=executor,
        device=device,
        more=more or (),
    )
    typer.echo(table)


def grid_job(
    config: Annotated[Path, typer.Argument(help="The graph that `fusioner grid` wrote.")],
    job: Annotated[str, typer.Argument(help="One of its jobs.")],
) -> None:
    """Train and evaluate one job of a grid."""
    from studies.paper_grid.grid import run_job

    graph = json.loads(config.read_text(encoding="utf-8"))
    if job not in graph["jobs"]:
        raise FusionerError(f"no job {job!r} in {config}: expected one of {', '.join(sorted(graph['jobs'])[:3])}, ...")
    typer.echo(run_job(job, graph["jobs"][job], config.parent, device=graph["device"]))


if __name__ == "__main__":
    try:
        typer.run(grid_job)
    except FusionerError as error:
        sys.exit(f"fusioner: {error}")
