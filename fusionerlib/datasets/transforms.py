"""Data sets made from data sets: a selection, one size for all, and seeded augmented views.

Several data sets one after the other.

Photographs of PASCAL VOC and COCO as one training set: one name a category, the held-out ones under no name.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from fusionerlib.datasets.mosaics import resized
from fusionerlib.datasets.names import all_names, canonical
from fusionerlib.datasets.pascal import Novel
from fusionerlib.datasets.scene import IGNORE, Scene, Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint


class Subset:
    """The scenes of ``scenes`` at ``indices``, in that order; an index may come up more than once.

    Raises FusionerError for an index that ``scenes`` does not have.
    """

    def __init__(self, scenes: Scenes, indices: Sequence[int]) -> None:
        self.scenes, self.indices = scenes, [int(index) for index in indices]
        for index in self.indices:
            if not 0 <= index < len(scenes):
                raise FusionerError(f"scene {index} is not in a set of {len(scenes)}: choose 0 to {len(scenes) - 1}")
        self.fingerprint = fingerprint(scenes.fingerprint, "subset", self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        return self.scenes.names(self.indices[index])

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[self.indices[index]]


class Mapped:
    """Every scene of ``scenes`` changed on its own: as many scenes, of the same names. What is done to one is in the
    ``__getitem__`` of a subclass, and ``how`` is all that decides it, for the fingerprint.
    """

    def __init__(self, scenes: Scenes, *how: int | float | str) -> None:
        self.scenes, self.fingerprint = scenes, fingerprint(scenes.fingerprint, *how)

    def __len__(self) -> int:
        return len(self.scenes)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        return self.scenes.names(index)


class Resized(Mapped):
    """Every scene squeezed to ``size`` x ``size`` pixels: image bilinear and antialiased, labels to the nearest pixel.

    Raises FusionerError for a size below 1.
    """

    def __init__(self, scenes: Scenes, *, size: int) -> None:
        super().__init__(scenes, "resized", size)
        self.size = _positive("size", size)

    def __getitem__(self, index: int) -> Scene:
        return resized(self.scenes[index], width=self.size, height=self.size)


class Views:
    """``views`` versions of every scene, each ``size`` x ``size`` pixels; scene i's view v is at ``i * views + v``.

    View 0 is the scene as ``Resized`` gives it. The others are augmented as ``augment.STORED`` says, image and labels
    together: the paper's augmentation without hue, noise and warps.
    A view is decided by (seed, i, v) alone. Its names are the scene's, even where the crop left an object out: that
    name's mask is then empty, which is a correct answer and not an error.
    Raises FusionerError for views or a size below 1.
    """

    def __init__(self, scenes: Scenes, *, views: int, seed: int, size: int) -> None:
        from fusionerlib.datasets.augment import STORED

        self.scenes, self.seed, self.augmentation = scenes, seed, STORED
        self.views, self.size = _positive("views", views), _positive("size", size)
        self.fingerprint = fingerprint(scenes.fingerprint, "views", views, seed, size, STORED)

    def __len__(self) -> int:
        return len(self.scenes) * self.views

    def names(self, index: int) -> tuple[str, ...]:
        """The names of the scene that view ``index`` shows, without opening its image."""
        return self.scenes.names(index // self.views)

    def __getitem__(self, index: int) -> Scene:
        from fusionerlib.datasets.augment import view

        place, number = divmod(index, self.views)
        scene = self.scenes[place]
        if number == 0:
            return resized(scene, width=self.size, height=self.size)
        made = view(scene, augmentation=self.augmentation, size=self.size, seed=(self.seed, place, number))
        return replace(made, key=f"{scene.key} view {number}")


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise FusionerError(f"{name} = {value}: expected at least 1")
    return value


class Concat:
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


class VocCoco:
    """``scenes`` by canonical names (``datasets.categories``), without the categories in ``without``.

    Names of one category become one name, their pixels one mask. Pixels of a category in ``without``, under whichever
    of its names, are ignored; with ``novel="background"`` they are background, as in the paper. A scene that is left
    without a name is dropped.
    """

    def __init__(self, scenes: Scenes, *, without: Collection[str] = (), novel: Novel = "ignore") -> None:
        self.scenes, self.novel = scenes, novel
        self.without = all_names(without)
        self._indices = [index for index in range(len(scenes)) if self._merged(scenes.names(index))]
        self.fingerprint = fingerprint(scenes.fingerprint, "canonical", sorted(self.without), novel)

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
