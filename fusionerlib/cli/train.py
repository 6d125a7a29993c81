"""The command ``fusioner train``: train a run, in one process or in those that accelerate launched."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusionerlib.cli.settings import AllowLarge, pairs, parsed
from fusionerlib.errors import FusionerError

if TYPE_CHECKING:
    from fusionerlib.config import RunConfig


def train(
    config: Annotated[Path | None, typer.Argument(help="A run's config.json; the defaults if not given.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")] = Path("outputs/trained"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Leaves of the config: steps=200")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Start from its weights: packaged, a run's name, a folder, hf://..."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Of one's own folder: stop at warnings too.")] = False,
    allow_large: AllowLarge = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if there is one.")] = "",
) -> None:
    """Train the run of CONFIG; an interrupted run goes on.

    In several processes: accelerate launch --num_processes 2 -m fusionerlib.cli.app train CONFIG
    """
    from fusionerlib.runs import fit
    from fusionerlib.training.distributed import Distributed

    given = [*(settings or []), *([] if init is None else [f"init={init}"])]
    checkpoint = fit(configured(config, given), output, device=device, strict=strict)
    if Distributed.joined(device).main:
        typer.echo(f"checkpoint: {checkpoint}")


def replay(
    file: Annotated[Path, typer.Argument(help="The file stopped-*.safetensors that a training wrote.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if there is one.")] = "",
) -> None:
    """Do again the step in which a training stopped at NaN or infinity, and say where that comes from.

    FILE holds all that is needed: no data set, no encoder and no folder of the training is read.
    """
    from fusionerlib.training.replay import replay as replayed

    found = replayed(file, device=device)
    typer.echo(f"step {found.step}, the training stopped at: {found.recorded}")
    for scene in found.scenes:
        typer.echo(f"  scene {scene}{'  <- not finite on its own' if scene in found.culprits else ''}")
    if found.stage:
        typer.echo(f"not finite here too: {found.stage}{f' ({found.detail})' if found.detail else ''}")
    else:
        typer.echo("everything is finite here: the cause is the device, or the precision, of the training")


def configured(config: Path | None, settings: Sequence[str]) -> "RunConfig":
    """The run of a JSON file, changed by ``--set`` options (``RunConfig.changed``); without a file, the options' run.

    The file has a run's sections, or is a checkpoint's ``config.json``, which has them under "run". Leaves that it
    lacks are those of ``RunConfig.flat``. Raises FusionerError if it has no run, and for a bad setting.
    """
    import json

    from fusionerlib.config import RunConfig
    from fusionerlib.digests import unsealed

    given = {name: parsed(value) for name, value in pairs(list(settings)).items()}
    if config is None:
        return RunConfig.flat(**given)
    try:
        text = config.read_text(encoding="utf-8")
        content: Any = json.loads(text)
        content = unsealed(text) if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError) as error:
        raise FusionerError(f"{config} can't be read ({error}): give the config.json of a run, or none") from error
    if content.get("format") == 1:
        raise FusionerError(f"{config} is of version 0.1: convert its folder first, `fusioner convert {config.parent}`")
    sections, known = content.get("run", content), list(RunConfig.model_fields)
    named = isinstance(sections, dict) and sections.keys() <= set(known)
    if not named or not sections or not all(isinstance(section, dict) for section in sections.values()):
        raise FusionerError(f"{config} holds no run: expected objects under {', '.join(known)}, as in a config.json")
    leaves = {leaf: value for section in sections.values() for leaf, value in section.items()}
    return RunConfig.flat(**leaves).changed(**given)
