"""The command ``fusioner evaluate``: scores of checkpoints on labelled images."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusionerlib.cli import inputs
from fusionerlib.cli.segment import Device, Edges, NoBackground, Quiet, Sliding, Talk, Thresholds, Verbose
from fusionerlib.cli.settings import AllowLarge
from fusionerlib.errors import FusionerError, nearest, one_of
from fusionerlib.files import PACKAGED, ready_folder
from fusionerlib.hub import find_checkpoint
from fusionerlib.inference.requests import checked_edges
from fusionerlib.name_forms import spelt_as

if TYPE_CHECKING:
    from fusionerlib.datasets.scene import Scenes

OWN = "folder"
"""The data set that is one's own folder."""


class Part(StrEnum):
    """The images of one's own folder that are scored."""

    val = "val"
    train = "train"
    all = "all"


def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Labelled images: images/ with masks/ and names.txt, or with a COCO file; or the root of DATASET.",
            autocompletion=inputs.complete_paths,
        ),
    ],
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="packaged, a checkpoint's or a run's folder, or the name of a run. Each is compared with the first.",
            show_default=PACKAGED,
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="How FOLDER is laid out: folder is one's own; or pascal, coco, voc-20, ade20k-150, ...")
    ] = OWN,
    split: Annotated[
        Part, typer.Option(help="Of one's own folder: val is what training leaves out (every fifth without lists).")
    ] = Part.val,
    strict: Annotated[bool, typer.Option("--strict", help="Stop where an image or object can't be read.")] = False,
    names: Annotated[
        str, typer.Option(metavar="TEXT|FILE", help="Ask for these alone: 'cat,dog', or a .txt file; all by default.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Also write scores.html, scores.json and scores.parquet to this folder."),
    ] = None,
    threshold: Thresholds = None,
    no_background: NoBackground = False,
    sliding: Sliding = False,
    edges: Edges = "",
    device: Device = "cpu",
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score checkpoints on labelled images: mIoU with intervals, by name, and which checkpoint is better where."""
    talk = Talk(quiet=quiet, verbose=verbose)
    chosen = checkpoints or [PACKAGED]
    if twice := [name for name in chosen if chosen.count(name) > 1]:
        raise FusionerError(f"checkpoint {twice[0]!r} is given twice: give each one once")
    for checkpoint in chosen:
        find_checkpoint(checkpoint)
    checked_edges(edges)
    asked = inputs.names_given(names) if names else ()
    if output is not None:
        ready_folder(output)
    scenes = labelled_scenes(data, dataset, split, strict=strict)
    known = tuple(getattr(scenes, "classes", ()) or getattr(scenes, "categories", ()))
    asked = spelt_as(asked, known)
    if asked and known and not set(asked) & set(known):
        raise FusionerError(f"{data} labels none of the {len(asked)} names asked: {nearest(asked[0], known)}")
    least = inputs.threshold_given(threshold or [], asked or known)

    from fusionerlib.datasets.all_classes import all_classes_names
    from fusionerlib.devices import chosen_device
    from fusionerlib.evaluation import report, scores
    from fusionerlib.inference.segmenter import Segmenter

    on = str(chosen_device(device))
    if not asked and dataset != OWN:
        asked = all_classes_names(dataset, data)
    found = {}
    for checkpoint in chosen:
        talk.detail(f"{checkpoint}: {len(scenes)} images on {on}")
        found[checkpoint] = scores.evaluate(
            Segmenter.load(checkpoint, sliding=sliding, edges=edges, device=on),
            scenes,
            names=asked,
            threshold=least,
            background=not no_background,
            quiet=talk.quiet,
        )
    talk.notes(dict.fromkeys(note for one in found.values() for note in one.notes))
    about = {"data": str(data), "dataset": dataset, "split": str(split), "threshold": least}
    record = report.record(found, about=about | {"background": not no_background, "sliding": sliding, "edges": edges})
    files = report.write(output, found, record) if output is not None else []
    if as_json:
        typer.echo(report.json_text(record))
    else:
        talk.result(report.terminal_text(record))
        for file in files:
            talk.result(f"written: {file}")


def labelled_scenes(data: Path, dataset: str, split: Part, *, strict: bool = False) -> "Scenes":
    """The scenes to score; no image is opened. Raises FusionerError as the readers do, and for an unknown data set."""
    from fusionerlib.datasets import folder
    from fusionerlib.datasets.all_classes import ALL_CLASSES_TESTS, all_classes_test

    if not data.is_dir():
        raise FusionerError(f"--data {data} is no folder: give the one that holds images/ and masks/, or a COCO file")
    one_of("dataset", dataset, ALL_CLASSES_TESTS)
    if dataset == OWN:
        parts: dict[Part, folder.Part] = {Part.train: "train", Part.val: "val"}
        return folder.read_folder(data, split=parts.get(split), strict=strict)
    if split is not Part.val:
        raise FusionerError(f"--split {split} with --dataset {dataset}: its published test images are scored, leave it")
    return all_classes_test(dataset, data)
