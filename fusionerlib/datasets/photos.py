"""Photographs of PASCAL VOC and COCO as one training set: one name a category, the held-out ones under no name."""

from collections.abc import Collection

import numpy as np

from fusionerlib.datasets.categories import all_names, canonical
from fusionerlib.datasets.mosaic import recipe
from fusionerlib.datasets.pascal import Novel
from fusionerlib.datasets.scene import IGNORE, Scene, Scenes


class Canonical:
    """``scenes`` by canonical names (``datasets.categories``), without the categories in ``without``.

    Names of one category become one name, their pixels one mask. Pixels of a category in ``without``, under whichever
    of its names, are ignored; with ``novel="background"`` they are background, as in the paper. A scene that is left
    without a name is dropped.
    """

    def __init__(self, scenes: Scenes, *, without: Collection[str] = (), novel: Novel = "ignore") -> None:
        self.scenes, self.novel = scenes, novel
        self.without = all_names(without)
        self._indices = [index for index in range(len(scenes)) if self._merged(scenes.names(index))]
        self.fingerprint = recipe(scenes.fingerprint, "canonical", sorted(self.without), novel)

    def __len__(self) -> int:
        return len(self._indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The canonical names of scene ``index`` that are left, without opening its image."""
        return self._merged(self.scenes.names(self._indices[index]))

    def __getitem__(self, index: int) -> Scene:
        scene = self.scenes[self._indices[index]]
        names = self._merged(scene.names)
        table = np.zeros(256, dtype=np.uint8)
        table[IGNORE] = IGNORE
        for label, name in enumerate(scene.names, start=1):
            if name in self.without:
                table[label] = IGNORE if self.novel == "ignore" else 0
            else:
                table[label] = names.index(canonical(name)) + 1
        return Scene(image=scene.image, labels=table[scene.labels], names=names, key=scene.key)

    def _merged(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(canonical(name) for name in names if name not in self.without))
