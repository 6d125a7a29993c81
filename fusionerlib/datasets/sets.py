"""From a data config to the scenes that train, validate and test: where recipes of scenes are written down.

Test scenes with every class labelled: to ask all names of at once, and to cut one-object crops from.

What a checkpoint is tested on: scenes, and whether published pairs are asked one by one or all names at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from fusionerlib.config import DataConfig
from fusionerlib.datasets import coco20i, fss1000, pascal
from fusionerlib.datasets.coco import CocoInstances
from fusionerlib.datasets.coco20i import Coco20i
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.mask_folder import COCO_OBJECT, LAYOUTS, MaskFolder, class_names, read_indexed, read_set
from fusionerlib.datasets.mosaics import Mosaics, mosaic_indices
from fusionerlib.datasets.names import canonical, held_out, unseen
from fusionerlib.datasets.openmoji import drawn_scenes
from fusionerlib.datasets.pascal import FOLDS, NAMES, NOTHING, Pascal5i, Split, published
from fusionerlib.datasets.paste import Pastes
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.transforms import Concat, Resized, Subset, Views, VocCoco
from fusionerlib.errors import FusionerError


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
    photos = Concat(*(VocCoco(part, without=without, novel=novel) for part in (voc, coco)))
    train = Views(photos, views=config.views, seed=config.data_seed, size=config.size)
    test = Pascal5i(config.root, fold=config.fold, split="val")
    return DataSets(
        train=Concat(train, *composed) if (composed := _composed(config, photos)) else train,
        tests={_kind(config): Resized(VocCoco(test), size=config.size)},
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


FULL_TESTS = ("pascal", "photos", "coco", "folder", *LAYOUTS, COCO_OBJECT)
"""What ``full_test`` knows."""


def full_test(dataset: str, root: Path) -> Scenes:
    """The test images of a data set with all of their classes labelled, at their own sizes.

    pascal, photos: those images of PASCAL-5i's four validation lists that are on disk; no fold trains on them. photos
    gives canonical names. coco: the images of COCO's validation instances file, or of the only one there is. folder:
    the user's validation images. Any other: the validation split of ``indexed.read_set``.
    Raises FusionerError for a data set that has no such test, and where files are missing.
    """
    if dataset == "pascal":
        return full_pascal(root)
    if dataset == "photos":
        return VocCoco(full_pascal(root))
    if dataset == "coco":
        return CocoInstances(Path(root), annotations=_validation_file(Path(root)))
    if dataset == "folder":
        return read_folder(Path(root), split="val")
    if dataset in FULL_TESTS:
        return read_set(dataset, Path(root))
    raise FusionerError(
        f"data set {dataset!r} has no test with every class labelled: expected one of {', '.join(FULL_TESTS)}"
    )


def full_pascal(root: Path) -> MaskFolder:
    """The images of PASCAL-5i's four validation lists that are on disk, with all of VOC's 20 classes.

    Raises FusionerError where there is none of them.
    """
    listed = {image for fold in pascal.FOLDS for image, _ in pascal.published(fold, "val")}
    scenes = read_indexed("voc-20", Path(root), split=None, keys=listed)
    if not len(scenes):
        raise FusionerError(
            f"PASCAL root {str(root)!r} holds none of the {len(listed)} images of the four validation lists "
            f"({min(listed)}.jpg first): unpack all of VOC 2012 there"
        )
    return scenes


def full_names(dataset: str, root: Path) -> tuple[str, ...]:
    """Every name that ``full_test`` may label, in the data set's order: what is asked at once."""
    if dataset == "pascal":
        return pascal.NAMES
    if dataset == "photos":
        return tuple(canonical(name) for name in pascal.NAMES)
    if dataset == "coco":
        return coco20i.NAMES
    if dataset == "folder":
        return tuple(vocabulary(full_test(dataset, root)))
    return class_names(dataset)


def _validation_file(root: Path) -> Path | None:
    files = [root / "annotations" / f"instances_val{year}.json" for year in (2017, 2014)]
    return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class Benchmark:
    """One test. pairs: (scene, name) asked one by one. names: asked all at once of every scene. With neither, every
    scene is asked for its own names and absent look-alikes."""

    scenes: Scenes
    pairs: Sequence[tuple[int, str]] | None = None
    names: tuple[str, ...] = ()

    @property
    def native(self) -> Scenes:
        """The scenes at their own sizes, where they have such."""
        return self.scenes.scenes if isinstance(self.scenes, Resized) else self.scenes


def own_benchmarks(config: DataConfig, sets: DataSets, *, all_at_once: bool) -> dict[str, Benchmark]:
    """The tests of a run's own data set; with ``all_at_once`` also ``all``, where every class is labelled and asked.

    Raises FusionerError where the files for that are missing.
    """
    found = {name: Benchmark(scenes, pairs=sets.test_pairs.get(name)) for name, scenes in sets.tests.items()}
    if all_at_once and config.dataset in FULL_TESTS:
        found["all"] = _all(config.dataset, config.root, size=config.size)
    return found


def other_benchmarks(dataset: str, root: Path, *, size: int, trained: Collection[str]) -> dict[str, Benchmark]:
    """The tests of another data set than the run's: ``all``, and for ``pascal`` the published validation pairs of the
    classes that training had under none of their names (``novel``; how COCO-20i meets PASCAL).

    trained: the names of training. Raises FusionerError for a data set without a fully labelled test, and for files
    that are missing.
    """
    everything = _all(dataset, root, size=size)
    if dataset != "pascal":
        return {"all": everything}
    place = {key: index for index, key in enumerate(full_pascal(root).keys)}
    new = set(unseen(full_names(dataset, root), trained=trained))
    listed = [(image, NAMES[number - 1]) for fold in FOLDS for image, number in published(fold, "val")]
    pairs = [(place[image], name) for image, name in listed if image in place and name in new]
    novel = {"novel": Benchmark(everything.scenes, pairs=pairs)} if pairs else {}
    return {**novel, "all": everything}


def _all(dataset: str, root: Path, *, size: int) -> Benchmark:
    return Benchmark(Resized(full_test(dataset, root), size=size), names=full_names(dataset, root))
