"""Which mosaics a data set is tested on, and what their tiles are made of."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000, openmoji
from fusionerlib.datasets.categories import canonical, categories, unseen
from fusionerlib.datasets.crops import Crops, select_crops
from fusionerlib.datasets.fss import FSSFolder
from fusionerlib.datasets.full import full_test
from fusionerlib.datasets.joined import Joined
from fusionerlib.datasets.mosaic import Mosaics, mosaicked
from fusionerlib.datasets.openmoji_sets import test_sources
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.transforms import Subset
from fusionerlib.errors import FusionerError

TILES = 4
"""A 2x2 mosaic has so many."""


@dataclass(frozen=True)
class Tiles:
    """One-object scenes by split, the hardest split last, and why a split is left out.

    datasets: where they are from. size: of the mosaics, in pixels. listed: the mosaics of a published list, by split.
    """

    datasets: tuple[str, ...]
    size: int
    splits: dict[str, Scenes]
    left_out: dict[str, str]
    listed: dict[str, Mosaics]

    @property
    def main(self) -> str:
        """The split that matters most: names that were never trained, where there are enough of them."""
        return list(self.splits)[-1]


def tile_sets(
    config: DataConfig, *, trained: Collection[str] = (), source: str = "", root: str = "", quiet: bool = False
) -> Tiles:
    """What the mosaics of a run with ``config`` are made of.

    OpenMoji's three tests and FSS-1000's test classes, which are one-object scenes; of any other data set the crops of
    its test images (``full_test``), ``seen`` and ``unseen``: of names that training had, and had under none of their
    names. Where another run's data set is drawn, its things are split that way too.
    trained: the names of training. source: data sets to take the tiles from, separated by commas, "" for the run's
    own. root: a folder for each of them, "" for the run's own.
    Raises FusionerError where no split has four names, and as the readers do.
    """
    datasets = _listed(source) or (config.dataset,)
    roots = [Path(part) for part in _listed(root)] or ([] if source else [config.root])
    if len(roots) != len(datasets):
        raise FusionerError(f"source {source!r} has the roots {root!r}: give one folder for each of its data sets")
    if datasets == ("fss1000",):
        listed = fss1000.mosaics(roots[0], size=config.size)
        return Tiles(datasets, config.size, {"objects": listed.scenes}, {}, {"objects": listed})
    if datasets == ("openmoji",) and config.dataset == "openmoji":
        tests: dict[str, Scenes] = {**test_sources(roots[0], openmoji.load_splits(roots[0]))}
        return Tiles(datasets, config.size, tests, {}, {})
    called = _spelling(config.dataset)
    parts = [_one_object(*pair, called=called, quiet=quiet) for pair in zip(datasets, roots, strict=True)]
    splits, left_out = _by_training(Joined(*parts), trained)
    if not splits:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise FusionerError(
            f"{', '.join(datasets)} under {', '.join(map(str, roots))} has too few one-object scenes for mosaics: "
            f"{reasons}; name a data set with more in source"
        )
    return Tiles(datasets, config.size, splits, left_out, {})


def plain_mosaics(tiles: Tiles, *, count: int, seed: int) -> dict[str, Mosaics]:
    """Mosaic-4 by split: ``count`` of the main one, half as many of the others; all of a published list."""
    return {
        name: tiles.listed.get(name)
        or mosaicked(source, size=tiles.size, count=count if name == tiles.main else -(-count // 2), seed=seed + place)
        for place, (name, source) in enumerate(tiles.splits.items())
    }


def mosaic_sets(config: DataConfig, *, count: int, seed: int, trained: Collection[str] = ()) -> dict[str, Mosaics]:
    """``plain_mosaics`` of the run's own data set."""
    return plain_mosaics(tile_sets(config, trained=trained), count=count, seed=seed)


def _one_object(dataset: str, root: Path, *, called: Callable[[str], str], quiet: bool) -> Scenes:
    if dataset == "fss1000":
        return fss1000.split(root, "test")
    if dataset == "openmoji":
        openmoji.load_splits(root)
        return FSSFolder(root)
    scenes = full_test(dataset, root)
    return Crops(scenes, select_crops(scenes, called=called, quiet=quiet))


def _spelling(dataset: str) -> Callable[[str], str]:
    """How a run on ``dataset`` writes the names of VOC's categories."""
    if dataset == "pascal":
        words = {row.coco: row.words for row in categories()}
        return lambda name: words.get(canonical(name), name)
    return canonical if dataset in ("photos", "coco") else str


def _by_training(scenes: Scenes, trained: Collection[str]) -> tuple[dict[str, Scenes], dict[str, str]]:
    novel = set(unseen(vocabulary(scenes), trained=trained))
    splits: dict[str, Scenes] = {}
    left_out: dict[str, str] = {}
    for name, wanted in (("seen", False), ("unseen", True)):
        part = Subset(scenes, [index for index in range(len(scenes)) if (scenes.names(index)[0] in novel) == wanted])
        names = vocabulary(part)
        if len(names) < TILES:
            left_out[name] = f"{len(names)} names ({', '.join(names) or 'none'}), a mosaic needs {TILES}"
        else:
            splits[name] = part
    return splits, left_out


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
