"""What a checkpoint is tested on: scenes, and whether published pairs are asked one by one or all names at once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusionerlib.config import DataConfig
from fusionerlib.datasets.categories import unseen
from fusionerlib.datasets.full import FULL_TESTS, full_names, full_pascal, full_test
from fusionerlib.datasets.pascal import FOLDS, NAMES, published
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.sets import DataSets
from fusionerlib.datasets.transforms import Resized


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
