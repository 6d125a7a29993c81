"""From a data config to the scenes that train, validate and test: where recipes of scenes are written down."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000, openmoji
from fusionerlib.datasets.categories import canonical, held_out
from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.coco20i import Coco20i
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.fss import FSSFolder
from fusionerlib.datasets.glyphs import COLOURS
from fusionerlib.datasets.mosaic import Mosaics, mosaic_indices
from fusionerlib.datasets.pascal import Pascal5i, Split
from fusionerlib.datasets.paste import Pastes
from fusionerlib.datasets.photos import Canonical
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.datasets.transforms import Resized, Subset, Views
from fusionerlib.errors import FusionerError


class Joined:
    """Several data sets one after the other."""

    def __init__(self, *parts: Scenes) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.fingerprint = hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Scene:
        part, place = self._find(index)
        return part[place]

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        part, place = self._find(index)
        return part.names(place)

    def _find(self, index: int) -> tuple[Scenes, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[number], index - int(self._starts[number])


@dataclass(frozen=True)
class DataSets:
    """What a run trains and is measured on.

    pairs: the (scene, name) pairs that training draws from, None for all of ``train``. tests: by name. test_pairs:
    the episodes of a test, where a list publishes them.
    """

    train: Scenes
    tests: dict[str, Scenes]
    pairs: list[tuple[int, str]] | None = None
    test_pairs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def prepare(config: DataConfig) -> DataSets:
    """The scenes of ``config``, at its input size; nothing is read beyond file lists until a scene is asked for."""
    recipes = {
        "openmoji": _openmoji,
        "pascal": _pascal,
        "photos": _photos,
        "coco": _coco,
        "fss1000": _fss1000,
        "folder": _folder,
    }
    return recipes[config.dataset](config)


def _openmoji(config: DataConfig) -> DataSets:
    """Of the training scenes three eighths are pasted, an eighth are mosaics, half are mosaics of uncoloured things.

    All show four things, so that a step has much to learn from. Where a colour tells the tiles apart, the nouns are
    not learnt, and unseen objects are known by nouns alone: hence the uncoloured mosaics.
    """
    drawn = (config.root / openmoji.SPLITS).is_file()
    # A set that is there is taken as it is: the graph draws it with settings of its own.
    splits = openmoji.load_splits(config.root) if drawn else openmoji.build(config.root, objects=config.objects)
    numbers = splits.train_numbers()
    plain = {name: numbers[name] for name in splits.train if name.split("_")[0] not in COLOURS}
    train, uncoloured = FSSFolder(config.root, numbers=numbers), FSSFolder(config.root, numbers=plain)
    sources = _test_sources(config.root, splits)
    part, seed = max(1, config.train_scenes // 8), config.data_seed
    return DataSets(
        train=Joined(
            pasted(train, config=config, count=3 * part, seed=seed + 1, objects=(4, 4)),
            mosaicked(train, config=config, count=part, seed=seed + 2),
            mosaicked(uncoloured, config=config, count=4 * part, seed=seed + 3),
        ),
        tests={
            name: pasted(source, config=config, count=config.eval_scenes, seed=1001 + place)
            for place, (name, source) in enumerate(sources.items())
        },
    )


def _test_sources(root: Path, splits: openmoji.Splits) -> dict[str, FSSFolder]:
    return {
        "seen": FSSFolder(root, numbers=splits.seen_numbers()),
        "combinations": FSSFolder(root, classes=splits.combinations),
        "objects": FSSFolder(root, classes=splits.objects),
    }


def mosaic_sets(config: DataConfig, *, count: int, seed: int) -> dict[str, Scenes]:
    """Mosaic-4 of the OpenMoji tests: ``count`` of unseen ``objects``, half as many of ``seen`` and ``combinations``.

    Raises FusionerError for a data set that is not in the FSS-1000 layout.
    """
    if config.dataset == "fss1000":
        return {"objects": fss1000.mosaics(config.root, size=config.size)}
    if config.dataset != "openmoji":
        raise FusionerError(
            f"dataset {config.dataset!r} has no one-object scenes to make mosaics of: use 'openmoji' or 'fss1000'"
        )
    sources = _test_sources(config.root, openmoji.load_splits(config.root))
    return {
        name: mosaicked(source, config=config, count=count if name == "objects" else -(-count // 2), seed=seed + place)
        for place, (name, source) in enumerate(sources.items())
    }


def mosaicked(source: Scenes, *, config: DataConfig, count: int, seed: int) -> Mosaics:
    """``count`` Mosaic-4 scenes from one-object scenes."""
    indices = mosaic_indices([source.names(i)[0] for i in range(len(source))], count=count, seed=seed)
    return Mosaics(source, indices, size=config.size)


def pasted(source: Scenes, *, config: DataConfig, count: int, seed: int, objects: tuple[int, int] = (2, 4)) -> Pastes:
    """``count`` scenes of ``objects`` (from, to; at most 4) things of different names from one-object scenes."""
    names = [source.names(i)[0] for i in range(len(source))]
    indices = paste_indices(names, count=count, seed=seed, objects=objects)
    return Pastes(source, indices, size=config.size, seed=seed)


def paste_indices(
    names: Sequence[str], *, count: int, seed: int, objects: tuple[int, int] = (2, 4)
) -> list[tuple[int, ...]]:
    """Groups of ``objects`` (from, to) scenes with different names; every scene comes up about equally often."""
    groups = mosaic_indices(names, count=count, seed=seed)
    sizes = np.random.default_rng((seed, 7)).integers(objects[0], objects[1] + 1, size=len(groups))
    return [tuple(group[:size]) for group, size in zip(groups, sizes, strict=True)]


def _pascal(config: DataConfig) -> DataSets:
    train = Pascal5i(config.root, fold=config.fold, split="train")
    return _listed(config, train, Pascal5i(config.root, fold=config.fold, split="val"))


def _coco(config: DataConfig) -> DataSets:
    train, test = (
        Coco20i(config.root, fold=config.fold, split=split, present_only=config.present_only)
        for split in get_args(Split)
    )
    return _listed(config, train, test)


def _listed(config: DataConfig, train: Pascal5i | Coco20i, test: Pascal5i | Coco20i) -> DataSets:
    views = Views(train, views=config.views, seed=config.data_seed, size=config.size)
    pairs = [(scene * config.views + view, name) for scene, name in train.pairs for view in range(config.views)]
    return DataSets(
        train=views,
        tests={"novel": Resized(test, size=config.size)},
        pairs=pairs,
        test_pairs={"novel": test.pairs},
    )


def _fss1000(config: DataConfig) -> DataSets:
    train, test = (fss1000.split(config.root, part) for part in ("train", "test"))
    return DataSets(
        train=Views(train, views=config.views, seed=config.data_seed, size=config.size),
        tests={"objects": Resized(test, size=config.size)},
    )


def _folder(config: DataConfig) -> DataSets:
    train, val = (_named(read_folder(config.root, split=split)) for split in get_args(Split))
    return DataSets(
        train=Views(train, views=config.views, seed=config.data_seed, size=config.size),
        tests={"validation": Resized(val, size=config.size)},
    )


def _named(scenes: Scenes) -> Subset:
    """Without the scenes that show nothing with a name: no question can be asked of them."""
    return Subset(scenes, [index for index in range(len(scenes)) if scenes.names(index)])


def _photos(config: DataConfig) -> DataSets:
    """PASCAL VOC's training lists and COCO together, tested as PASCAL-5i is; all names are the canonical ones."""
    without = held_out(config.fold)
    voc = Pascal5i(config.root, fold=config.fold, split="train", novel=config.novel)
    coco = CocoInstances(config.coco)
    train = Joined(*(Canonical(part, without=without, novel=config.novel) for part in (voc, coco)))
    test = Pascal5i(config.root, fold=config.fold, split="val")
    return DataSets(
        train=Views(train, views=config.views, seed=config.data_seed, size=config.size),
        tests={"novel": Resized(Canonical(test), size=config.size)},
        test_pairs={"novel": [(scene, canonical(name)) for scene, name in test.pairs]},
    )
