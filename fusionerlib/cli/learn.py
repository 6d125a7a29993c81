"""The command ``fusioner learn``: names from labelled pictures, without training."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusionerlib.cli import inputs
from fusionerlib.cli.segment import Device
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.files import PACKAGED
from fusionerlib.hub import find_checkpoint
from fusionerlib.name_forms import spelt_as

if TYPE_CHECKING:
    import numpy as np

    from fusionerlib.datasets.scene import Scenes


def learn(
    names: Annotated[
        str, typer.Argument(metavar="NAMES|FILE", help="The names to learn: 'couch,zebra', or a .txt file.")
    ] = "",
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Labelled images: images/ with masks/ and names.txt, or with a COCO file.",
            autocompletion=inputs.complete_paths,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the checkpoint to write.")] = Path(
        "outputs/learned"
    ),
    checkpoint: Annotated[
        str, typer.Option(help="The checkpoint that learns; its own files stay, unless -o is its folder.")
    ] = PACKAGED,
    forget: Annotated[str, typer.Option(metavar="NAMES", help="Delete all examples of these names first.")] = "",
    device: Device = "cpu",
) -> None:
    """Teach a checkpoint names by examples, in closed form and without training."""
    asked = inputs.names_given(names) if names else ()
    gone = inputs.names_given(forget) if forget else ()
    if not asked and not gone:
        raise FusionerError("nothing to learn or to forget: give NAMES with --examples FOLDER, or --forget NAMES")
    if asked and examples is None:
        raise FusionerError(f"{asked[0]!r} needs labelled images: give --examples FOLDER")
    find_checkpoint(checkpoint)

    from fusionerlib.datasets.folder import read_folder
    from fusionerlib.datasets.scene import vocabulary
    from fusionerlib.devices import chosen_device
    from fusionerlib.inference.segmenter import Segmenter

    shown = {}
    if asked and examples is not None:
        scenes = read_folder(examples)
        labelled = vocabulary(scenes)
        shown = dict(zip(asked, spelt_as(asked, labelled), strict=True))
        for name, own in shown.items():
            if own not in labelled:
                raise FusionerError(f"no image in {examples} shows {name!r}: {nearest(name, labelled)}")
    segmenter = Segmenter.load(checkpoint, device=str(chosen_device(device)))
    for name in gone:
        segmenter.forget(name)
        typer.echo(f"{name}: forgotten")
    for name, own in shown.items():
        used: list[int] = []
        segmenter.learn(name, _regions(scenes, own, used))
        typer.echo(f"{name}: learnt from {len(used)} example{'s' * (len(used) != 1)}")
    typer.echo(f"checkpoint: {segmenter.save_pretrained(output)}")


def _regions(scenes: "Scenes", name: str, used: list[int]) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
    """Each image of ``scenes`` that shows ``name``, and its mask, one at a time; ``used`` gets their indices."""
    from fusionerlib.progress import each

    of_name = [index for index in range(len(scenes)) if name in scenes.names(index)]
    for index in each(of_name, f"learning {name}", total=len(of_name), unit="image"):
        scene = scenes[index]
        mask = scene.labels == scene.names.index(name) + 1
        if mask.any():
            used.append(index)
            yield scene.image, mask
