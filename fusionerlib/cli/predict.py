"""The command ``fusioner predict``: many photos to masks as data."""

from pathlib import Path
from typing import Annotated

import typer

from fusionerlib.cli import inputs
from fusionerlib.cli.segment import (
    Checkpoint,
    Device,
    Edges,
    NoBackground,
    Quiet,
    Sliding,
    Talk,
    Thresholds,
    Verbose,
)
from fusionerlib.cli.settings import AllowLarge


def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO... | FOLDER | LIST.txt",
            help="Image files, a folder with images, or a text file with a path a line.",
            autocompletion=inputs.complete_paths,
        ),
    ],
    names: Annotated[
        str, typer.Option(metavar="TEXT|FILE", help="What to look for: 'cat,sofa', or a .txt file with a name a line.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path("outputs/predictions"),
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Some of index (palette PNGs in masks/), coco (annotations/instances.json), overlay, soft (npz).",
        ),
    ] = "index",
    instances: Annotated[
        bool, typer.Option("--instances", help="COCO: an annotation each connected part, not each name.")
    ] = False,
    images: Annotated[
        str, typer.Option(help="Beside index masks and COCO, put the photos into images/: link, copy or none.")
    ] = "link",
    shard: Annotated[
        str,
        typer.Option(metavar="K/N", help="Predict the K-th of N parts; afterwards the same without --shard collects."),
    ] = "",
    checkpoint: Checkpoint = "packaged",
    threshold: Thresholds = None,
    no_background: NoBackground = False,
    sliding: Sliding = False,
    edges: Edges = "",
    device: Device = "cpu",
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment many photos and write their masks as data: a folder that can train, COCO, overlays, soft masks.

    A stopped call goes on when it is repeated. Photos that can't be read are listed at the end; exit status 1.
    """
    from fusionerlib.inference import batch, requests

    talk = Talk(quiet=quiet, verbose=verbose)
    asked = inputs.names_given(names)
    settings = requests.Settings(
        names=asked,
        checkpoint=checkpoint,
        formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
        threshold=inputs.threshold_given(threshold or [], asked),
        background=not no_background,
        sliding=sliding,
        edges=edges,
        instances=instances,
        images=images,
    )
    files = inputs.photos_given(photos)
    part = requests.Shard.parsed(shard) if shard else None
    batch.unique_stems(files)
    segmenter = None
    if left := batch.remaining(output, files, settings, shard=part):
        from fusionerlib.devices import chosen_device
        from fusionerlib.inference.segmenter import Segmenter

        chosen = str(chosen_device(device))
        segmenter = Segmenter.load(checkpoint, sliding=sliding, edges=edges, device=chosen)
        talk.detail(f"checkpoint {checkpoint} loaded on {chosen}; {len(left)} of {len(files)} images to do")
        talk.notes(segmenter.notes(asked))
    done = batch.predict_into(output, segmenter, files, settings, shard=part, quiet=talk.quiet)
    kept = f" ({done.kept} of them before)" if done.kept else ""
    talk.result(f"{output}: {done.images} images{kept}, {len(done.failed)} failed")
    if done.squeezed:
        talk.note(
            "note: panoramas (one side more than twice the other) resized to a square, which squeezes what they show: "
            f"{done.squeezed}; --sliding keeps their proportions"
        )
    for _, reason in done.failed:
        typer.echo(f"fusioner: {reason}", err=True)
    if done.failed:
        raise typer.Exit(1)
