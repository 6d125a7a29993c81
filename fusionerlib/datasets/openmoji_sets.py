"""What the drawn set trains and tests on: pasted scenes and mosaics of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusionerlib.config import DataConfig
from fusionerlib.datasets import openmoji
from fusionerlib.datasets.fss import FSSFolder
from fusionerlib.datasets.glyphs import COLOURS
from fusionerlib.datasets.joined import Joined
from fusionerlib.datasets.mosaic import mosaic_indices, mosaicked
from fusionerlib.datasets.paste import Pastes
from fusionerlib.datasets.scene import Scenes


def drawn_scenes(config: DataConfig) -> tuple[Scenes, dict[str, Scenes]]:
    """The training scenes, drawn first where the set is missing, and the tests by name.

    Of the training scenes three eighths are pasted, an eighth are mosaics, half are mosaics of uncoloured things.

    All show four things, so that a step has much to learn from. Where a colour tells the tiles apart, the nouns are
    not learnt, and unseen objects are known by nouns alone: hence the uncoloured mosaics.
    """
    drawn = (config.root / openmoji.SPLITS).is_file()
    # A set that is there is taken as it is: the graph draws it with settings of its own.
    splits = openmoji.load_splits(config.root) if drawn else openmoji.build(config.root, objects=config.objects)
    numbers = splits.train_numbers()
    plain = {name: numbers[name] for name in splits.train if name.split("_")[0] not in COLOURS}
    train, uncoloured = FSSFolder(config.root, numbers=numbers), FSSFolder(config.root, numbers=plain)
    sources = test_sources(config.root, splits)
    part, seed = max(1, config.train_scenes // 8), config.data_seed
    tests: dict[str, Scenes] = {
        name: pasted(source, size=config.size, count=config.eval_scenes, seed=1001 + place)
        for place, (name, source) in enumerate(sources.items())
    }
    joined = Joined(
        pasted(train, size=config.size, count=3 * part, seed=seed + 1, objects=(4, 4)),
        mosaicked(train, size=config.size, count=part, seed=seed + 2),
        mosaicked(uncoloured, size=config.size, count=4 * part, seed=seed + 3),
    )
    return joined, tests


def test_sources(root: Path, splits: openmoji.Splits) -> dict[str, FSSFolder]:
    """The one-object scenes that tests are made of, by test."""
    return {
        "seen": FSSFolder(root, numbers=splits.seen_numbers()),
        "combinations": FSSFolder(root, classes=splits.combinations),
        "objects": FSSFolder(root, classes=splits.objects),
    }


def pasted(source: Scenes, *, size: int, count: int, seed: int, objects: tuple[int, int] = (2, 4)) -> Pastes:
    """``count`` scenes of ``objects`` (from, to; at most 4) things of different names from one-object scenes."""
    names = [source.names(i)[0] for i in range(len(source))]
    indices = paste_indices(names, count=count, seed=seed, objects=objects)
    return Pastes(source, indices, size=size, seed=seed)


def paste_indices(
    names: Sequence[str], *, count: int, seed: int, objects: tuple[int, int] = (2, 4)
) -> list[tuple[int, ...]]:
    """Groups of ``objects`` (from, to) scenes with different names; every scene comes up about equally often."""
    groups = mosaic_indices(names, count=count, seed=seed)
    sizes = np.random.default_rng((seed, 7)).integers(objects[0], objects[1] + 1, size=len(groups))
    return [tuple(group[:size]) for group, size in zip(groups, sizes, strict=True)]
