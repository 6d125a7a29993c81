"""The command ``fusioner segment``: photos and names to overlays and shares."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from fusionerlib.cli import inputs
from fusionerlib.cli.settings import AllowLarge
from fusionerlib.errors import FusionerError
from fusionerlib.hub import find_checkpoint
from fusionerlib.inference.requests import checked_edges

Checkpoint = Annotated[
    str,
    typer.Option(help="A checkpoint's or a run's folder, or the name of a run.", autocompletion=inputs.complete_paths),
]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold",
        metavar="NUMBER|NAME=NUMBER",
        help="A pixel goes to the best name above its threshold, else to the background; 0.5 if not given.",
    ),
]
NoBackground = Annotated[
    bool, typer.Option("--no-background", help="Every pixel goes to one of the names; thresholds have no effect.")
]
Sliding = Annotated[
    bool,
    typer.Option("--sliding", help="Slide windows over the photo at its own size: slower, better for small things."),
]
Edges = Annotated[
    str,
    typer.Option(
        metavar="guided|bilinear",
        help="Whether the picture's colours guide the edges of the masks; by default what suits the checkpoint.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors alone, on stderr.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say on stderr what is loaded and how long it takes.")]


class Talk:
    """What is said beside the results, on stderr. quiet: nothing. verbose: also ``detail``."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        if quiet and verbose:
            raise FusionerError("--quiet and --verbose exclude each other: give one of them")
        self.quiet, self.verbose = quiet, verbose
        self._start = time.monotonic()

    def result(self, text: str) -> None:
        """A line of the result, on stdout; nothing where quiet."""
        if not self.quiet:
            typer.echo(text)

    def note(self, text: str) -> None:
        """A line for people, on stderr; nothing where quiet."""
        if not self.quiet:
            typer.echo(f"fusioner: {text}", err=True)

    def notes(self, texts: Iterable[str]) -> None:
        """A note each, such as what a segmenter says of the names asked."""
        for text in texts:
            self.note(f"note: {text}")

    def detail(self, text: str) -> None:
        """A line with the seconds since the start, where verbose."""
        if self.verbose:
            typer.echo(f"fusioner: {time.monotonic() - self._start:6.2f} s  {text}", err=True)


def segment(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO... NAME...",
            help="Image files (- for standard input), and what to look for: cat, 'blue sofa'. Commas split names.",
            autocompletion=inputs.complete_paths,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The overlay to write (overlay.png); with several photos, a folder."),
    ] = None,
    names: Annotated[
        str, typer.Option(metavar="TEXT|FILE", help="More names: 'cat,sofa', or a .txt file with a name a line.")
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
    """Segment photos into the names given and draw the masks over them.

    An argument that is an existing file is a photo, all others are names. Several photos give STEM.overlay.png each, in
    the current folder or in that of -o. For masks as data use `fusioner predict`.
    """
    talk = Talk(quiet=quiet, verbose=verbose)
    photos, asked = inputs.photos_and_names(arguments, names)
    if len(photos) > 1 and (own := [photo for photo in photos if photo.endswith(inputs.OVERLAY)]):
        talk.note(f"{len(own)} files that end in {inputs.OVERLAY} are left out: this command wrote them")
        photos = [photo for photo in photos if photo not in own]
    thresholds = inputs.threshold_given(threshold or [], asked)
    targets = inputs.overlay_files(photos, output)
    find_checkpoint(checkpoint)
    checked_edges(edges)

    from fusionerlib.devices import chosen_device
    from fusionerlib.inference.segmenter import Segmenter

    chosen = str(chosen_device(device))
    talk.detail("libraries imported")
    segmenter = Segmenter.load(checkpoint, sliding=sliding, edges=edges, device=chosen)
    talk.detail(f"checkpoint {checkpoint} and its encoders loaded on {chosen}")
    talk.notes(segmenter.notes(asked))
    images = [_standard_input() if photo == inputs.STDIN else photo for photo in photos]
    results = segmenter.predict(images, asked, threshold=thresholds, background=not no_background)
    failed: list[FusionerError] = []
    for photo, target, (_, found) in zip(photos, targets, results, strict=True):
        if isinstance(found, FusionerError):
            if len(photos) == 1:
                raise found
            failed.append(found)
            continue
        if len(photos) > 1:
            talk.result(photo)
        talk.notes(segmenter.image_notes(found.image.shape[:2]))
        _save(found.overlay(), target)
        for row in found.table():
            talk.result(f"{row['share']:7.1%}  {row['name']}")
        talk.result(f"overlay: {target}")
        talk.detail(f"{photo} done")
        if not found.labels.any():
            highest = max(row["max"] for row in found.table())
            talk.note(
                f"no name was found in {photo}: the largest probability is {highest:.2f}; try a lower --threshold, or "
                "--no-background if one of the names must be there"
            )
    for error in failed:
        typer.echo(f"fusioner: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _standard_input() -> Any:
    import io

    from PIL import UnidentifiedImageError

    from fusionerlib.images import open_image

    content = sys.stdin.buffer.read()
    try:
        image = open_image(io.BytesIO(content), "the image on standard input")
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise FusionerError(
            f"standard input ({len(content)} bytes) is no image ({type(error).__name__}): pipe a JPEG or PNG file"
        ) from error
    return image


def _save(picture: Any, target: Path) -> None:
    import io

    from PIL import Image

    from fusionerlib.files import write_bytes

    stream = io.BytesIO()
    picture.convert("RGB").save(stream, Image.registered_extensions()[target.suffix.lower()])
    write_bytes(target, stream.getvalue())
