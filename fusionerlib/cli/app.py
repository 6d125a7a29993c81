"""The command line ``fusioner``. Each command imports what it needs, so that ``--help`` is quick."""

import ast
import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fusionerlib import __version__
from fusionerlib.cli.data import data
from fusionerlib.cli.doctor import doctor
from fusionerlib.cli.evaluate import evaluate
from fusionerlib.cli.learn import learn
from fusionerlib.cli.predict import predict
from fusionerlib.cli.segment import segment
from fusionerlib.cli.train import replay, train
from fusionerlib.errors import (
    DENIED,
    FULL,
    IN_THE_WAY,
    FusionerError,
    FusionerWarning,
    cannot_write,
    error_number,
    missing_extra,
)

CLONE_COMMANDS = "fusioner.commands"
"""Group of entry points: commands that need a clone, with its notebooks and studies."""


class _CloneCommand(TyperCommand):
    """A command that only a clone of the workbook has: imported when it is called, not when it is listed."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(entry.name, help=first_line(entry))
        self.entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself. Raises FusionerError where there is no clone."""
        try:
            function = self.entry.load()
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in ("workbook", "studies"):
                raise
            raise FusionerError(
                f"`fusioner {self.name}` needs a clone of the workbook, and only the library is installed here: "
                "clone the repository and run `make install` in it"
            ) from error
        single = typer.Typer(add_completion=False)
        single.command(self.name)(function)
        return typer.main.get_command(single).make_context(info_name, args, parent=parent, **extra)


def first_line(entry: EntryPoint) -> str:
    """The first line of the docstring of the command's function, read from its source without importing it."""
    try:
        spec = find_spec(entry.module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return "Needs a clone of the workbook."
    module = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == entry.attr]
    return (ast.get_docstring(functions[0]) or "").partition("\n")[0] if functions else ""


KEPT = {
    "train": "the running checkpoint is kept: the same command goes on from it",
    "predict": "the results so far are kept: the same command goes on",
    "checkpoint": "the running checkpoint is kept: the same command goes on from it",
    "grid": "finished trainings are kept: the same command goes on",
    "run": "finished steps are kept: the same command goes on",
    "fetch": "the downloaded part is kept: the same command goes on from it",
    "data": "downloads are kept: the same command goes on",
    "segment": "overlays that were announced are kept",
}
"""What is left of a command that is stopped by Ctrl-C; of the others nothing is."""


class _Commands(TyperGroup):
    """The library's commands, then those of a clone.

    A FusionerError, and what the system refuses to write, is one message on stderr and exit status 2. A FusionerWarning
    is one message on stderr. Ctrl-C says what is kept and exits with 130.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """The library's commands, then the clone's."""
        return [*super().list_commands(ctx), *(entry.name for entry in entry_points(group=CLONE_COMMANDS))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        found = super().get_command(ctx, cmd_name)
        entries = entry_points(group=CLONE_COMMANDS)
        return _CloneCommand(entries[cmd_name]) if found is None and cmd_name in entries.names else found

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A path may hold bytes that are no text: they are shown as \\xff.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _told(warnings.showwarning)
                return super().invoke(ctx)
        except FusionerError as error:
            typer.echo(f"fusioner: {error}", err=True)
            raise typer.Exit(2) from error
        except (KeyboardInterrupt, typer.Abort) as error:
            kept = KEPT.get(ctx.invoked_subcommand or "", "nothing was written")
            typer.echo(f"\nfusioner: stopped; {kept}", err=True)
            raise typer.Exit(130) from error
        except ModuleNotFoundError as error:
            if (missing := missing_extra(error.name)) is None:
                raise
            typer.echo(f"fusioner: {missing}", err=True)
            raise typer.Exit(2) from error
        except Exception as error:
            number = error_number(error)
            if number is None or number not in (*FULL, *DENIED, *IN_THE_WAY, errno.ENAMETOOLONG):
                raise
            place = getattr(error, "filename", None) or "the output"
            typer.echo(f"fusioner: {cannot_write(os.fsdecode(place), error)}", err=True)
            raise typer.Exit(2) from error


def _told(other: Callable[..., None]) -> Callable[..., None]:
    """A ``warnings.showwarning`` that prints a FusionerWarning without the place in the source."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, FusionerWarning):
            typer.echo(f"fusioner: {message}", err=True)
        else:
            other(message, category, *place, **more)

    return show


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"fusioner {__version__}")
        raise typer.Exit()
    return asked


@app.callback()
def fusioner(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Open-vocabulary segmentation with frozen encoders."""


def checkpoint(
    voc: Annotated[Path, typer.Option(help="The folder that holds VOCdevkit.")] = Path("data/pascal"),
    coco: Annotated[Path, typer.Option(help="The folder that holds COCO's annotations.")] = Path("data/coco"),
    camvid: Annotated[
        Path | None, typer.Option(help="The folder that `fusioner data camvid` made; without it no surface is trained.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint's folder.")] = Path("outputs/packaged"),
    steps: Annotated[int, typer.Option(help="Training steps.")] = 2000,
    size: Annotated[int, typer.Option(help="Width and height of the input in pixels.")] = 320,
    fold: Annotated[int, typer.Option(help="The fold of PASCAL-5i to hold out, -1 for none.")] = -1,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of the batches.")] = 0,
    features: Annotated[Path, typer.Option(help="The folder of stored frozen features.")] = Path("data/features"),
) -> None:
    """Train the packaged checkpoint again, on photographs of PASCAL VOC, COCO and CamVid."""
    from fusionerlib import runs

    run = runs.packaged_run(
        voc=voc, coco=coco, camvid=camvid, features=features, steps=steps, size=size, fold=fold, seed=seed
    )
    typer.echo(f"checkpoint: {runs.train_packaged(run, output)}")


def convert(
    folder: Annotated[Path, typer.Argument(help="A checkpoint's folder: config.json and model.safetensors.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The folder to write; FOLDER itself.")] = None,
) -> None:
    """Convert a checkpoint of version 0.1 to the format of this version."""
    from fusionerlib import checkpoints

    typer.echo(f"checkpoint: {checkpoints.convert(folder, output)}")


def encoders(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every encoder with its files.")] = False,
) -> None:
    """List the frozen encoders, and which of them are on this machine."""
    from fusionerlib.encoders import registry

    typer.echo(json.dumps(registry.records(), indent=1) if as_json else registry.overview())


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Encoders' names, see `fusioner encoders`.")],
    role: Annotated[str, typer.Option(help="visual or text; both if not given and NAME has both.")] = "",
    accept_digest: Annotated[
        str, typer.Option(help="A sha256 to accept for a file although the published or recorded one differs.")
    ] = "",
) -> None:
    """Download the weights of encoders, after a line with their licence; files that are here are only checked."""
    from fusionerlib.encoders import weights
    from fusionerlib.encoders.registry import specs_named

    if accept_digest and len(names) > 1:
        raise FusionerError("--accept-digest is for the file of one encoder: fetch that one alone")
    for spec in [spec for name in names for spec in specs_named(name, role)]:
        if not weights.present(spec):
            typer.echo(weights.licence_notice(spec), err=True)
        files = weights.fetch(spec, accept_digest=accept_digest)
        typer.echo(f"{spec.role} {spec.name}: " + (f"{weights.locate(spec)}" if files else "nothing to download"))


def training_free(
    visual: Annotated[str, typer.Argument(help="A visual encoder with a text half in one space: clip-vit-b16, ...")],
    affinity: Annotated[str, typer.Option(help="A second visual encoder that lends its affinities: dino-vitb8.")] = "",
    text: Annotated[str, typer.Option(help="The text encoder; VISUAL's own half if not given.")] = "",
    tokens: Annotated[str, typer.Option(help="The kind of patch token, see `fusioner encoders`.")] = "",
    templates: Annotated[str, typer.Option(help="Prompt templates; CLIP's 80 if not given.")] = "",
    size: Annotated[int, typer.Option(help="Side of the input in pixels, 0 for one from 320 on that fits.")] = 0,
    offset: Annotated[float, typer.Option(help="The cosine above which a pixel may belong to a name.")] = 0.2,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path(
        "outputs/training-free"
    ),
) -> None:
    """Write a checkpoint without training: the cosine of patches and names, for --checkpoint of the other commands."""
    from fusionerlib.inference.segmenter import Segmenter

    segmenter = Segmenter.training_free(
        visual, affinity=affinity, text=text, tokens=tokens, templates=templates, size=size, offset=offset
    )
    data = "None: nothing was trained. A pixel is background where no name's cosine with it exceeds "
    segmenter.save_pretrained(output, title=segmenter.visual.name, data=f"{data}{offset}.")
    typer.echo(f"checkpoint: {output}")


# The order of the help.
for command in (
    segment,
    predict,
    evaluate,
    learn,
    train,
    training_free,
    replay,
    convert,
    encoders,
    fetch,
    checkpoint,
    doctor,
):
    app.command()(command)
app.add_typer(
    data, name="data", help="Check a folder of your own, draw the OpenMoji scenes, or prepare a published data set."
)


if __name__ == "__main__":
    app()
