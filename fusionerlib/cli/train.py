"""The command ``fusioner train``: a run's config to its checkpoint, alone or in every process of a launch."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fusionerlib.cli.data import pairs
from fusionerlib.errors import FusionerError


def train(
    config: Annotated[Path | None, typer.Argument(help="A run's config.json; the defaults if not given.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")] = Path("outputs/trained"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Leaves of the config: steps=200")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one.")] = "",
) -> None:
    """Train the fusion of CONFIG; a run that was stopped goes on.

    In several processes: accelerate launch --num_processes 2 -m fusionerlib.cli.app train CONFIG
    """
    from fusionerlib.config import RunConfig, checked
    from fusionerlib.training.fitting import fit
    from fusionerlib.training.processes import Processes
    from fusionerlib.workbook.runs import parsed

    given = {name: parsed(value) for name, value in pairs(settings or []).items()}
    if config is None:
        run = RunConfig.flat(**given)
    else:
        try:
            kept = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FusionerError(f"{config} can't be read ({error}): give the config.json of a run, or none") from error
        # A checkpoint's file holds its run beside other things.
        whole = checked(RunConfig, kept.get("run", kept) if isinstance(kept, dict) else kept)
        leaves = {leaf: value for _, section in whole for leaf, value in section}
        run = RunConfig.flat(**{**leaves, **given})
    checkpoint = fit(run, output, device=device)
    if Processes.joined(device).main:
        typer.echo(f"checkpoint: {checkpoint}")
