"""From a config to data: the scenes that a run trains and tests on, and the questions of each test."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000
from fusionerlib.datasets.all_classes import (
    ALL_CLASSES_TESTS,
    all_classes_names,
    all_classes_test,
    pascal_validation_images,
)
from fusionerlib.datasets.coco import NAMES as COCO_NAMES
from fusionerlib.datasets.coco import Coco20i
from fusionerlib.datasets.coco_instances import CocoInstances
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.names import VocCoco, canonical, category, held_out, unseen
from fusionerlib.datasets.openmoji.scenes import drawn_scenes
from fusionerlib.datasets.pascal import NAMES, NO_FOLD, Pascal5i, Split, validation_pairs
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.transforms import Concat, Resized, Subset, Views, Without
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.files import fingerprint

PUBLISHED = {"pascal": "pascal-5i", "photos": "pascal-5i", "coco": "coco-20i"}
"""The table of published results by the data set of a run."""


@dataclass(frozen=True)
class DataSets:
    """What a run trains and is tested on.

    pairs: the (scene index, name) pairs that training draws from; None for every name of every scene of ``train``.
    sources: where ``train`` is several data sets, for each the number of its scenes and the names that it labels.
    tests: test scenes by the test's name. test_pairs: the published (scene index, name) pairs of a test, if any.
    """

    train: Scenes
    tests: dict[str, Scenes]
    pairs: list[tuple[int, str]] | None = None
    test_pairs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    sources: tuple[tuple[int, frozenset[str]], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes with what the files of training and tests hold, and with the settings that choose among them."""
        return fingerprint(
            self.train.fingerprint, sorted((name, test.fingerprint) for name, test in self.tests.items())
        )

    def labelled(self, scene: int) -> frozenset[str] | None:
        """The names that the data set of training scene ``scene`` labels; None for all names of training."""
        for count, names in self.sources:
            if scene < count:
                return names
            scene -= count
        return None


def load_datasets(config: DataConfig) -> DataSets:
    """The data sets of ``config``, resized to its input size. Images are opened on access only.

    Raises FusionerError as the readers do, where files are missing or broken.
    """
    if config.dataset == "openmoji":
        train, tests = drawn_scenes(config)
        return DataSets(train=train, tests=tests)
    readers = {
        "pascal": _pascal,
        "photos": _photos,
        "coco": _coco,
        "fss1000": _fss1000,
        "folder": _folder,
    }
    sets = readers[config.dataset](config)
    views = range(config.views)
    pairs = sets.pairs and [(scene * len(views) + view, name) for scene, name in sets.pairs for view in views]
    return DataSets(
        train=Views(sets.train, views=config.views, seed=config.data_seed, size=config.size),
        tests={name: Resized(scenes, size=config.size) for name, scenes in sets.tests.items()},
        pairs=pairs,
        test_pairs=sets.test_pairs,
        sources=tuple((count * len(views), names) for count, names in sets.sources),
    )


def _pascal(config: DataConfig) -> DataSets:
    train = Pascal5i(config.root, fold=config.fold, split="train", novel=config.novel or "background")
    test = Pascal5i(config.root, fold=config.fold, split="val")
    kind = _test_name(config)
    return DataSets(train=train, tests={kind: test}, pairs=train.pairs, test_pairs={kind: test.pairs})


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
    kind = _test_name(config)
    return DataSets(train=train, tests={kind: test}, pairs=train.pairs, test_pairs={kind: test.pairs})


def _photos(config: DataConfig) -> DataSets:
    """PASCAL VOC's training images, COCO and, where given, CamVid's street frames together, tested as PASCAL-5i is.

    All names are the canonical ones.
    """
    novel = config.novel or "ignore"
    parts: list[tuple[Scenes, Collection[str]]] = [
        (Pascal5i(config.root, fold=config.fold, split="train", novel=novel), NAMES),
        (CocoInstances(config.coco), COCO_NAMES),
    ]
    if config.camvid is not None:
        street = read_folder(config.camvid, split="train")
        parts.append((street, vocabulary(street)))
    known = {canonical(name) for _, names in parts for name in names}
    without = held_out(config.fold) | _held_out_names(config, known)
    kept = [(VocCoco(scenes, without=without, novel=novel), names) for scenes, names in parts]
    test = Pascal5i(config.root, fold=config.fold, split="val")
    kind = _test_name(config)
    return DataSets(
        train=Concat(*(scenes for scenes, _ in kept)),
        tests={kind: VocCoco(test)},
        test_pairs={kind: [(scene, canonical(name)) for scene, name in test.pairs]},
        sources=tuple((len(scenes), frozenset(map(canonical, names))) for scenes, names in kept),
    )


def _fss1000(config: DataConfig) -> DataSets:
    train, test = (fss1000.split(config.root, part) for part in ("train", "test"))
    return DataSets(train=train, tests={"objects": test})


def _folder(config: DataConfig) -> DataSets:
    train, val = (_labelled(read_folder(config.root, split=split)) for split in get_args(Split))
    return DataSets(train=_without(train, config) if config.held_out else train, tests={"validation": val})


def _without(train: Scenes, config: DataConfig) -> Scenes:
    """``train`` without the names in ``config.held_out``, under any of their synonyms."""
    known = {name for index in range(len(train)) for name in train.names(index)}
    kept = Without(train, _held_out_names(config, known), novel=config.novel or "ignore")
    if not len(kept):
        raise FusionerError(
            f"held_out {', '.join(config.held_out)}: no training image shows another name; hold out fewer"
        )
    return kept


def _held_out_names(config: DataConfig, known: Collection[str]) -> set[str]:
    """Those of the ``known`` names that ``config.held_out`` means. Raises FusionerError for one that is not there."""
    for name in config.held_out:
        if category(name) not in map(category, known):
            raise FusionerError(f"held_out {name!r}: no training image shows it: {nearest(name, sorted(known))}")
    gone = {category(name) for name in config.held_out}
    return {name for name in known if category(name) in gone}


def _labelled(scenes: Scenes) -> Subset:
    """``scenes`` without those that have no name: nothing can be asked of them."""
    return Subset(scenes, [index for index in range(len(scenes)) if scenes.names(index)])


def _test_name(config: DataConfig) -> str:
    """Whether training has seen the classes of the validation list."""
    return "seen" if config.fold == NO_FOLD else "novel"


@dataclass(frozen=True)
class Benchmark:
    """A test: scenes and what is asked of them.

    pairs: (scene index, name) pairs, each asked on its own. names: all asked at once of every scene. Where both are
    empty, every scene is asked for its own names together with similar absent ones.
    """

    scenes: Scenes
    pairs: Sequence[tuple[int, str]] | None = None
    names: tuple[str, ...] = ()

    @property
    def native(self) -> Scenes:
        """The scenes at their own sizes, where they were resized."""
        return self.scenes.scenes if isinstance(self.scenes, Resized) else self.scenes


def own_benchmarks(config: DataConfig, sets: DataSets, *, all_at_once: bool) -> dict[str, Benchmark]:
    """The tests of a run's own data set; with ``all_at_once`` also ``all``, which asks every class of every scene.

    Raises FusionerError where the files of ``all`` are missing.
    """
    found = {name: Benchmark(scenes, pairs=sets.test_pairs.get(name)) for name, scenes in sets.tests.items()}
    if all_at_once and config.dataset in ALL_CLASSES_TESTS:
        found["all"] = _all_classes(config.dataset, config.root, size=config.size)
    return found


def other_benchmarks(dataset: str, root: Path, *, size: int, trained: Collection[str]) -> dict[str, Benchmark]:
    """The tests of a data set that is not the run's own.

    ``all`` asks every class of every scene. For ``pascal`` there is also ``novel``: the pairs of the four validation
    lists whose class is not in ``trained`` under any of its names (how training on COCO-20i is tested on PASCAL).
    trained: the names of training. Raises FusionerError for a data set without a test of all classes, and where files
    are missing.
    """
    everything = _all_classes(dataset, root, size=size)
    if dataset != "pascal":
        return {"all": everything}
    place = {key: index for index, key in enumerate(pascal_validation_images(root).keys)}
    new = set(unseen(NAMES, trained=trained))
    listed = [(image, NAMES[number - 1]) for image, number in validation_pairs(NO_FOLD)]
    pairs = [(place[image], name) for image, name in listed if image in place and name in new]
    novel = {"novel": Benchmark(everything.scenes, pairs=pairs)} if pairs else {}
    return {**novel, "all": everything}


def _all_classes(dataset: str, root: Path, *, size: int) -> Benchmark:
    scenes = Resized(all_classes_test(dataset, root), size=size)
    return Benchmark(scenes, names=all_classes_names(dataset, root))
