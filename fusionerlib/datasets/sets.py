"""From a data config to the scenes that train, validate and test: where recipes of scenes are written down."""

from dataclasses import dataclass, field
from typing import get_args

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000
from fusionerlib.datasets.categories import canonical, held_out
from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.coco20i import Coco20i
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.joined import Joined
from fusionerlib.datasets.mosaic import Mosaics, mosaic_indices
from fusionerlib.datasets.openmoji_sets import drawn_scenes
from fusionerlib.datasets.pascal import NOTHING, Pascal5i, Split
from fusionerlib.datasets.paste import Pastes
from fusionerlib.datasets.photos import Canonical
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.transforms import Resized, Subset, Views


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
    train, tests = drawn_scenes(config)
    return DataSets(train=train, tests=tests)


def _pascal(config: DataConfig) -> DataSets:
    train = Pascal5i(config.root, fold=config.fold, split="train", novel=config.novel or "background")
    return _listed(config, train, Pascal5i(config.root, fold=config.fold, split="val"))


def _coco(config: DataConfig) -> DataSets:
    train, test = (
        Coco20i(
            config.root,
            fold=config.fold,
            split=split,
            novel=config.novel or "background",
            present_only=config.present_only,
        )
        for split in get_args(Split)
    )
    return _listed(config, train, test)


def _listed(config: DataConfig, train: Pascal5i | Coco20i, test: Pascal5i | Coco20i) -> DataSets:
    views = Views(train, views=config.views, seed=config.data_seed, size=config.size)
    pairs = [(scene * config.views + view, name) for scene, name in train.pairs for view in range(config.views)]
    return DataSets(
        train=views,
        tests={_kind(config): Resized(test, size=config.size)},
        pairs=pairs,
        test_pairs={_kind(config): test.pairs},
    )


def _kind(config: DataConfig) -> str:
    """What the classes of the validation list are to training."""
    return "seen" if config.fold == NOTHING else "novel"


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
    without, novel = held_out(config.fold), config.novel or "ignore"
    voc = Pascal5i(config.root, fold=config.fold, split="train", novel=novel)
    coco = CocoInstances(config.coco)
    photos = Joined(*(Canonical(part, without=without, novel=novel) for part in (voc, coco)))
    train = Views(photos, views=config.views, seed=config.data_seed, size=config.size)
    test = Pascal5i(config.root, fold=config.fold, split="val")
    return DataSets(
        train=Joined(train, *composed) if (composed := _composed(config, photos)) else train,
        tests={_kind(config): Resized(Canonical(test), size=config.size)},
        test_pairs={_kind(config): [(scene, canonical(name)) for scene, name in test.pairs]},
    )


def _composed(config: DataConfig, photos: Scenes) -> list[Scenes]:
    """Mosaics and copy-paste scenes of the photographs that show one name, as many as ``config`` asks for."""
    if not config.mosaics and not config.pastes:
        return []
    single = Subset(photos, [index for index in range(len(photos)) if len(photos.names(index)) == 1])
    names, seed = [single.names(index)[0] for index in range(len(single))], config.data_seed
    parts: list[Scenes] = []
    if config.mosaics:
        parts.append(Mosaics(single, mosaic_indices(names, count=config.mosaics, seed=seed), size=config.size))
    if config.pastes:
        groups = mosaic_indices(names, count=config.pastes, seed=seed)
        parts.append(Pastes(single, groups, size=config.size, seed=seed))
    return parts
