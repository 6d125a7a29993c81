"""Images with index masks and a list of names: the test sets that are published that way, all classes at once."""

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fusionerlib.datasets import coco20i, pascal
from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.masks import paired, read_indices, read_pair
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint


class MaskFolder:
    """Scenes from (key, image, mask) files, masks being index PNGs; a scene's names are the classes in its mask.

    classes: names by index. ignored: indices that become 255; 255 itself always is. background: indices that become
    0. meaning: where those are written, for errors. ``names`` reads the mask once, never the image.
    Raises FusionerError on reading, for a broken file, a mask of another size, and an index without a meaning.
    """

    def __init__(
        self,
        files: list[tuple[str, Path, Path]],
        *,
        classes: Mapping[int, str],
        background: Collection[int] = (0,),
        ignored: Collection[int] = (),
        meaning: str,
    ) -> None:
        self._files, self._by_index, self._ignored = files, dict(sorted(classes.items())), sorted(ignored)
        self._known, self._meaning = {*classes, *background, *ignored}, meaning
        self._present: dict[int, tuple[int, ...]] = {}
        sizes = [(key, image.stat().st_size, mask.stat().st_size) for key, image, mask in files]
        self.fingerprint = fingerprint("indexed", self._by_index, sorted(background), self._ignored, sizes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Every name of the data set, in the order of the indices: what is asked at once."""
        return tuple(self._by_index.values())

    @property
    def keys(self) -> list[str]:
        """The key of every scene, without opening a file."""
        return [key for key, _, _ in self._files]

    def __len__(self) -> int:
        return len(self._files)

    def names(self, index: int) -> tuple[str, ...]:
        """The names in the mask of scene ``index``, in the order of the classes."""
        if index not in self._present:
            self._read(index)
        return tuple(self._by_index[number] for number in self._present[index])

    def __getitem__(self, index: int) -> Scene:
        key, image, mask = self._files[index]
        raw = self._read(index)
        labels = pascal.relabelled(raw, classes=self._present[index], ignored=self._ignored)
        return Scene(image=read_pair(image, raw, mask), labels=labels, names=self.names(index), key=key)

    def _read(self, index: int) -> UInt8[np.ndarray, "height width"]:
        raw = read_indices(self._files[index][2], known=self._known, meaning=self._meaning)
        there = set(np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist()) - set(self._ignored)
        self._present[index] = tuple(number for number in self._by_index if number in there)
        return raw


class Layout(NamedTuple):
    """Where a published data set lies under its root, and what index 0 means; 1 to N are the classes in order.

    roots: prefixes that are tried. images, masks: folders under the first prefix that has the images; masks may also
    lie at the root. listing: the file of a split's stems; "" where a split has folders of its own. splits: our names
    of the splits, and the publisher's. zero_ignored: index 0 is ignored, it is background otherwise.
    """

    roots: tuple[str, ...]
    images: str
    masks: tuple[str, ...]
    listing: str
    splits: Mapping[str, str]
    zero_ignored: bool


_VOC_SPLITS = {"train": "train", "val": "val", "trainval": "trainval"}
_CONTEXT = Layout(
    roots=("VOCdevkit/VOC2010", "VOC2010", "."),
    images="JPEGImages",
    masks=("SegmentationClassContext",),
    listing="ImageSets/SegmentationContext/{split}.txt",
    splits={"train": "train", "val": "val"},
    zero_ignored=True,
)
LAYOUTS: dict[str, Layout] = {
    "ade20k-150": Layout(
        roots=("ADEChallengeData2016", "."),
        images="images/{split}",
        masks=("annotations/{split}",),
        listing="",
        splits={"train": "training", "val": "validation"},
        zero_ignored=True,
    ),
    "pascal-context-59": _CONTEXT,
    "pascal-context-60": _CONTEXT._replace(zero_ignored=False),
    "voc-20": Layout(
        roots=pascal.LAYOUTS,
        images="JPEGImages",
        masks=("SegmentationClassAug", "SegmentationClass"),
        listing="ImageSets/Segmentation/{split}.txt",
        splits=_VOC_SPLITS,
        zero_ignored=False,
    ),
}
"""ADE20K: the scene parsing benchmark of 2016, whose 0 is "other". PASCAL-Context: masks as the common converter of
its JSON writes them, 0 for what is none of the 59 classes, which are in alphabetical order from 1; 0 is ignored as
``pascal-context-59`` and background as ``pascal-context-60``. VOC: the 20 classes and background, all at once."""

COCO_OBJECT = "coco-object"
"""COCO's 80 classes and background, from its instances; images that show none of them are left out."""

NAMES_FILES = {"ade20k-150": "ade20k-150.txt", "pascal-context-59": "pascal-context-59.txt"}


@cache
def class_names(dataset: str) -> tuple[str, ...]:
    """The classes of a test set in order, as words. Raises FusionerError for one that is not known."""
    if dataset == COCO_OBJECT:
        return coco20i.NAMES
    if dataset == "voc-20":
        return pascal.NAMES
    if dataset not in LAYOUTS:
        raise FusionerError(f"test set {dataset!r}: expected one of {', '.join((*LAYOUTS, COCO_OBJECT))}")
    folder = resources.files("fusionerlib") / "datasets" / "splits" / "names"
    file = folder / NAMES_FILES[dataset.replace("-60", "-59")]
    # ADE20K gives synonyms; the first is the name.
    return tuple(line.split(",")[0] for line in file.read_text(encoding="utf-8").splitlines())


def read_set(dataset: str, root: Path, *, split: str | None = "val") -> Scenes:
    """One split of a published test set; for VOC and PASCAL-Context, None takes every image that has a mask.

    Raises FusionerError for an unknown data set or split, and where images, masks or the split's list are missing.
    """
    if dataset != COCO_OBJECT:
        return read_indexed(dataset, root, split=split)
    file = Path(root) / "annotations" / f"instances_{split}2017.json"
    return CocoInstances(Path(root), annotations=file if file.is_file() else None)


def read_indexed(
    dataset: str, root: Path, *, split: str | None = "val", keys: Collection[str] | None = None
) -> MaskFolder:
    """``read_set`` for the data sets whose masks are index PNGs, or the scenes of it whose key is in ``keys``.

    Raises FusionerError as ``read_set`` does.
    """
    names = class_names(dataset)
    if dataset not in LAYOUTS:
        raise FusionerError(f"test set {dataset!r} has no index masks: expected one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[dataset]
    if split not in layout.splits and (split is not None or not layout.listing):
        raise FusionerError(f"split = {split!r} of {dataset}: expected one of {', '.join(layout.splits)}")
    part = layout.splits.get(split or "", "")
    home = _home(dataset, Path(root), [Path(root) / prefix for prefix in layout.roots], layout.images, part)
    images = home / layout.images.format(split=part)
    places = [place / masks.format(split=part) for masks in layout.masks for place in (home, Path(root))]
    masks = next((place for place in places if place.is_dir()), None)
    if masks is None:
        tried = ", ".join(map(str, dict.fromkeys(places)))
        raise FusionerError(f"{images} has images but there are no masks: looked for {tried}; unpack them there")
    files = paired(images, masks, _stems(home / layout.listing.format(split=part), masks, split, layout))
    files = files if keys is None else [file for file in files if file[0] in keys]
    zero = {"background": (), "ignored": (0,)} if layout.zero_ignored else {"background": (0,), "ignored": ()}
    return MaskFolder(files, classes=dict(enumerate(names, start=1)), meaning=f"the index list of {dataset}", **zero)


def _home(dataset: str, root: Path, homes: list[Path], images: str, part: str) -> Path:
    for home in homes:
        if (home / images.format(split=part)).is_dir():
            return home
    tried = ", ".join(str(home / images.format(split=part)) for home in homes)
    raise FusionerError(f"{dataset} root {str(root)!r} has no images: looked for {tried}; point root above them")


def _stems(listing: Path, masks: Path, split: str | None, layout: Layout) -> list[str] | None:
    if not layout.listing:
        return None
    if split is None:
        return sorted(file.stem for file in masks.glob("*.png"))
    if not listing.is_file():
        raise FusionerError(
            f"{listing} is missing, the list of the split {split!r}: unpack ImageSets beside the images, or ask for "
            "split None, every image that has a mask"
        )
    return listing.read_text(encoding="utf-8").split()
