"""The commands ``fusioner data ...``: check a folder, draw the OpenMoji scenes, install the published data sets."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fusionerlib.cli.settings import AllowLarge
from fusionerlib.errors import FusionerError

data = typer.Typer(no_args_is_help=True)

From = Annotated[
    list[Path] | None,
    typer.Option("--from", metavar="ARCHIVE", help="Archives on this machine, with their publishers' file names."),
]
More = Annotated[list[Path] | None, typer.Argument(metavar="[ARCHIVE]...", help="More archives, after --from.")]
Link = Annotated[Path | None, typer.Option(metavar="DIR", help="A folder that has it unpacked, to link to.")]
Thorough = Annotated[bool, typer.Option("--thorough", help="Check all images and digests, not a sample.")]
Partial = Annotated[bool, typer.Option("--partial", help="Accept other numbers of files than the published ones.")]
Accept = Annotated[
    str, typer.Option("--accept-digest", help="A sha256 to accept for an archive although the published one differs.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]

SINGLE = {
    "pascal": (
        "PASCAL VOC 2012 with SBD's masks, as PASCAL-5i reads it (3.4 GB to download).",
        Path("data/pascal"),
        "The folder that gets VOCdevkit/VOC2012.",
    ),
    "fss": (
        "FSS-1000; download its archive in a browser and pass it with --from fewshot_data.zip.",
        Path("data/fss1000"),
        "The folder that gets the 1,000 class folders.",
    ),
    "ade": (
        "ADE20K with the 150 classes of the scene parsing benchmark (1 GB to download).",
        Path("data/ade"),
        "The folder that gets ADEChallengeData2016.",
    ),
    "context": (
        "PASCAL-Context with 59 classes (1.4 GB to download).",
        Path("data/context"),
        "The folder that gets VOCdevkit/VOC2010.",
    ),
}
"""The data sets without years or splits: description, default root, and what the root gets."""


class Year(StrEnum):
    """The two editions of COCO; 2017 has the images of 2014 in other splits."""

    y2014 = "2014"
    y2017 = "2017"


class Split(StrEnum):
    """COCO's splits with public annotations."""

    train = "train"
    val = "val"


@data.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(help="Pictures with masks and names, or with a COCO file.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings, and what is left out, exit with 1 too.")] = False,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Show what a folder of your own holds, name by name, and every problem; what can't be trained on exits with 1."""
    from fusionerlib.datasets.check import check_folder

    check = check_folder(folder, quiet=quiet)
    typer.echo(check.text())
    if check.fatal or (strict and check.warned):
        raise typer.Exit(1)


@data.command("openmoji")
def data_openmoji(
    root: Annotated[Path, typer.Option(help="The folder to draw into.")] = Path("data/openmoji"),
    seed: Annotated[int, typer.Option(help="Seed of every picture.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="objects=100")] = None,
    record: Annotated[Path | None, typer.Option(help="Also write recipe, digest and counts to this JSON file.")] = None,
) -> None:
    """Draw the OpenMoji scenes in the layout of FSS-1000, unless ROOT has them already."""
    from fusionerlib.cli.settings import pairs, parsed
    from fusionerlib.datasets.openmoji import drawing
    from fusionerlib.digests import write_json

    given = {name: parsed(value) for name, value in pairs(settings or []).items()}
    splits = drawing.build(root, **{"seed": seed, **given})
    counts = {split: len(getattr(splits, split)) for split in ("train", "combinations", "objects")}
    if record is not None:
        made = {"root": str(root), "recipe": splits.recipe.model_dump(), "digest": splits.digest, "classes": counts}
        write_json(record, made)
    typer.echo(f"{root}: " + ", ".join(f"{count} classes in {split}" for split, count in counts.items()))


@data.command("coco")
def data_coco(
    root: Annotated[Path, typer.Option(help="The folder that gets train2014, val2014, annotations, ...")] = Path(
        "data/coco"
    ),
    year: Annotated[Year, typer.Option(help="COCO-20i uses 2014, COCO-Object 2017.")] = Year.y2014,
    split: Annotated[list[Split] | None, typer.Option(help="Only this split; both by default.")] = None,
    archives: From = None,
    more: More = None,
    link: Link = None,
    thorough: Thorough = False,
    partial: Partial = False,
    accept_digest: Accept = "",
    quiet: Quiet = False,
) -> None:
    """COCO's images and instances (20 GB to download a year, 1 GB for --year 2017 --split val)."""
    names = [f"coco-{one.value}{year.value}" for one in split or list(Split)]
    _prepare(names, root, archives, more, link, thorough, partial, accept_digest, quiet)


@data.command("camvid")
def data_camvid(
    root: Annotated[Path, typer.Option(help="The folder that gets images, masks, names and lists.")] = Path(
        "data/camvid"
    ),
    given: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="PATH", help="The publishers' archives, or a folder that has them unpacked."),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More of them, after --from.")] = None,
    quiet: Quiet = False,
) -> None:
    """CamVid's 701 street scenes with 11 names, for research (575 MB to download)."""
    from fusionerlib.datasets import camvid

    if more and not given:
        raise FusionerError(f"unexpected argument {str(more[0])!r}: archives and folders follow --from")
    counts = camvid.prepare(root, [*(given or ()), *(more or ())], quiet=quiet)
    typer.echo(
        f"{root}: CamVid, for research: {', '.join(f'{count} images in {part}' for part, count in counts.items())}, "
        f"{len(camvid.CLASSES)} names (Brostow, Fauqueur and Cipolla, 2009; {camvid.HOME})"
    )


def _add(name: str, about: str, place: Path, gets: str) -> None:
    @data.command(name, help=about)
    def command(
        root: Annotated[Path, typer.Option(help=gets)] = place,
        archives: From = None,
        more: More = None,
        link: Link = None,
        thorough: Thorough = False,
        partial: Partial = False,
        accept_digest: Accept = "",
        quiet: Quiet = False,
    ) -> None:
        _prepare([name], root, archives, more, link, thorough, partial, accept_digest, quiet)


for _name, _row in SINGLE.items():
    _add(_name, *_row)


def _prepare(
    names: Sequence[str],
    root: Path,
    archives: Sequence[Path] | None,
    more: Sequence[Path] | None,
    link: Path | None,
    thorough: bool,
    partial: bool,
    accept_digest: str,
    quiet: bool,
) -> None:
    """Install the data sets ``names`` and print what each has."""
    from fusionerlib.datasets.download.prepare import DOWNLOADS, prepare
    from fusionerlib.datasets.download.verify import manifest_file

    if more and not archives:
        raise FusionerError(f"unexpected argument {str(more[0])!r}: archives follow --from, a folder follows --link")
    if link is not None and not link.is_dir():
        raise FusionerError(f"--link {link} is no folder: give the folder with the unpacked data set")
    given = [*(archives or ()), *(more or ())]
    done = prepare(
        names,
        root,
        archives=given,
        link=link,
        thorough=thorough,
        partial=partial,
        accept_digest=accept_digest,
        quiet=quiet,
    )
    for manifest in done:
        counts = ", ".join(
            f"{count:,}{'' if count == manifest.published[part] else f' of {manifest.published[part]:,}'} {part}"
            for part, count in manifest.counts.items()
        )
        file = manifest_file(root, manifest.dataset)
        typer.echo(f"{root}: {manifest.title}: {counts}; {manifest.opened:,} images opened; all files in {file}")
    if (root / DOWNLOADS).is_dir():
        typer.echo(f"{root / DOWNLOADS} is no longer needed and can be deleted")
