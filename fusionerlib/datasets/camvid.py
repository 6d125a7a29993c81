"""CamVid (Brostow, Fauqueur and Cipolla, 2009): street scenes, brought into the layout of one's own folder."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fusionerlib import download
from fusionerlib.datasets.download.archives import unpack
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.formats.colours import Colour, UnknownColour, indices_of
from fusionerlib.datasets.formats.names import read_names
from fusionerlib.datasets.scene import IGNORE
from fusionerlib.errors import FusionerError
from fusionerlib.files import IMAGE_SUFFIXES, exclusive, write_text
from fusionerlib.images import open_image, read_header
from fusionerlib.progress import each

HOME = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
FILES = {
    "LabeledApproved_full.zip": (
        f"{HOME}data/LabeledApproved_full.zip",
        "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData/data/LabeledApproved_full.zip",
    ),
    "701_StillsRaw_full.zip": (
        "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData/files/701_StillsRaw_full.zip",
    ),
}
"""The publishers' archives with their addresses; no digests are published."""

CLASSES: dict[str, dict[str, Colour]] = {
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Building": (128, 0, 0),
        "Archway": (192, 0, 128),
        "Bridge": (0, 128, 64),
        "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
    "pavement": {"Sidewalk": (0, 0, 192), "ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192)},
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign": {"SignSymbol": (192, 128, 128), "Misc_Text": (128, 128, 64), "TrafficLight": (0, 64, 64)},
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128),
        "SUVPickupTruck": (64, 128, 192),
        "Truck_Bus": (192, 128, 192),
        "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "pedestrian": {
        "Pedestrian": (64, 64, 0),
        "Child": (192, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Animal": (64, 128, 64),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}
"""The eleven names in common use (Sturgess et al., 2009), each with the publishers' 32 classes that it joins, and the
publishers' colours. Void, black, is ignored."""

_COLOURS = {(0, 0, 0): IGNORE} | {
    colour: index for index, parts in enumerate(CLASSES.values(), start=1) for colour in parts.values()
}


def validates(stem: str) -> bool:
    """Whether a frame is outside the common training list (Badrinarayanan et al., 2017: 367 of the 701 frames).

    These are the dusk sequence Seq05VD, the second half of 0001TP, and the frames 7959 to 8159 of 0016E5. The common
    lists divide them further, into 101 to validate and 233 to test.
    """
    sequence, _, frame = stem.partition("_")
    number = int(frame.lstrip("f"))
    return (
        sequence == "Seq05VD" or (sequence == "0001TP" and number > 8490) or (7959 <= number <= 8159 and "16E5" in stem)
    )


def prepare(root: Path, given: Sequence[Path] = (), *, quiet: bool = False) -> Counter[str]:
    """Bring CamVid into ``root``: ``images``, index ``masks``, ``names.txt`` and lists; counts by part.

    given: the publishers' archives, folders that hold them unpacked (``*_L.png`` in the publishers' colours, and the
    images of the same frames), or one folder in the layout that this makes. Without any, the archives are downloaded to
    ``root/downloads``. A ``root`` that has the images already is only counted. Nothing appears in ``root`` before all
    of it was read.
    Raises FusionerError for missing frames, a colour or names that are not CamVid's, and other sizes of image and mask.
    """
    root.mkdir(parents=True, exist_ok=True)
    staging = root / ".camvid.part"
    with exclusive(root / ".fusioner-data.lock", f"preparing {root}"):
        if not (root / "images").is_dir():
            shutil.rmtree(staging, ignore_errors=True)
            try:
                folders = [_unpacked(path, staging, quiet) for path in given or _downloaded(root, quiet)]
                _fill(staging, folders, quiet)
                for part in ("names.txt", "train.txt", "val.txt", "masks", "images"):
                    (staging / part).replace(root / part)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        counts = Counter({part: len(read_folder(root, split=part)) for part in ("train", "val")})
    return counts


def _downloaded(root: Path, quiet: bool) -> list[Path]:
    files = [root / "downloads" / name for name in FILES]
    for file, urls in zip(files, FILES.values(), strict=True):
        download.fetch(urls, file, quiet=quiet)
    return files


def _unpacked(path: Path, staging: Path, quiet: bool) -> Path:
    if path.is_dir():
        return path
    if not path.is_file():
        raise FusionerError(f"{path} is neither an archive nor a folder: give {' and '.join(FILES)}, or a folder")
    folder = staging / "unpacked" / path.stem
    unpack(path, folder, take={".": (".",)}, quiet=quiet)
    return folder


def _fill(staging: Path, folders: Sequence[Path], quiet: bool) -> None:
    for part in ("images", "masks"):
        (staging / part).mkdir(parents=True)
    homes = [file.parent for folder in folders for file in folder.rglob("names.txt")]
    own = next((home for home in homes if (home / "masks").is_dir()), None)
    frames = _own_frames(own) if own else _published_frames(folders)
    for stem, (image, mask) in each(frames.items(), "CamVid", total=len(frames), unit="frame", quiet=quiet):
        labels = np.asarray(open_image(mask, str(mask))) if own else _labels(mask)
        if read_header(image).shown != labels.shape:
            raise FusionerError(f"{image} and {mask} differ in size: take both from the publishers' archives")
        shutil.copyfile(image, staging / "images" / f"{stem}{image.suffix.lower()}")
        Image.fromarray(labels).save(staging / "masks" / f"{stem}.png")
    write_text(staging / "names.txt", "".join(f"{name}\n" for name in CLASSES))
    for part in ("train", "val"):
        chosen = [stem for stem in frames if validates(stem) == (part == "val")]
        write_text(staging / f"{part}.txt", "".join(f"{stem}\n" for stem in chosen))


def _published_frames(folders: Sequence[Path]) -> dict[str, tuple[Path, Path]]:
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES]
    masks = {file.stem.removesuffix("_L"): file for file in files if file.stem.endswith("_L")}
    images = {file.stem: file for file in files if not file.stem.endswith("_L")}
    lost = [stem for stem in masks if stem not in images]
    if not masks or lost:
        what = f"{len(lost)} of {len(masks)} masks have no image ({', '.join(lost[:3])})" if masks else "no *_L.png"
        raise FusionerError(
            f"{', '.join(map(str, folders))}: {what}: give both of {' and '.join(FILES)} (from {HOME}), as archives or "
            "unpacked"
        )
    return {stem: (images[stem], masks[stem]) for stem in sorted(masks)}


def _own_frames(home: Path) -> dict[str, tuple[Path, Path]]:
    names = [name for _, name in sorted(read_names(home / "names.txt").items())]
    if names != list(CLASSES):
        raise FusionerError(f"{home / 'names.txt'} has other names than CamVid's ({', '.join(CLASSES)}): check --from")
    scenes = read_folder(home)
    for index in range(len(scenes)):
        scenes.names(index)  # reads the mask: an index that is no name is refused
    images = {file.stem: file for file in (home / "images").iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
    return {stem: (images[stem], home / "masks" / f"{stem}.png") for stem in sorted(images)}


def _labels(mask: Path) -> np.ndarray:
    try:
        with open_image(mask, f"mask {mask}") as opened:
            return indices_of(np.asarray(opened.convert("RGB")), _COLOURS)
    except UnknownColour as error:
        raise FusionerError(
            f"{mask}: {error}: none of CamVid's; take the masks from LabeledApproved_full.zip"
        ) from error
    except (OSError, SyntaxError) as error:
        raise FusionerError(f"{mask} can't be read ({error}): download its archive again") from error
