"""Mosaic-4: grids of one-object scenes of different names (the definition stands in docs/protocol.md)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint


def mosaic(scenes: Sequence[Scene], *, grid: int = 2, size: int) -> Scene:
    """``grid * grid`` one-object scenes side by side, row by row, on ``size`` x ``size`` pixels.

    Each is resized to its tile, the image bilinear and antialiased, the mask to the nearest pixel. Tile t has label
    t + 1 and gives ``names[t]``. Raises FusionerError for a wrong number of scenes, repeated names, several names in
    one scene, or a size that the grid does not divide.
    """
    names = [scene.names[0] for scene in scenes]
    if len(scenes) != grid * grid or len(set(names)) != len(names) or any(len(scene.names) != 1 for scene in scenes):
        raise FusionerError(
            f"a {grid}x{grid} mosaic needs {grid * grid} one-object scenes of different names, "
            f"got {[scene.names for scene in scenes]}"
        )
    if size % grid:
        raise FusionerError(f"a mosaic of {size} pixels has no {grid} equal tiles a side: choose a multiple of {grid}")
    tile = size // grid
    image, labels = np.zeros((size, size, 3), dtype=np.uint8), np.zeros((size, size), dtype=np.uint8)
    for place, scene in enumerate(scenes):
        row, column = divmod(place, grid)
        window = np.s_[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        small = resized(scene, width=tile, height=tile)
        image[window] = small.image
        labels[window] = np.where(small.labels == 1, place + 1, small.labels)
    return Scene(image=image, labels=labels, names=tuple(names), key=" + ".join(scene.key for scene in scenes))


def resized(scene: Scene, *, width: int, height: int) -> Scene:
    """The scene at another size: image bilinear and antialiased, labels to the nearest pixel."""
    image = Image.fromarray(scene.image).resize((width, height), Image.Resampling.BILINEAR)
    labels = Image.fromarray(scene.labels).resize((width, height), Image.Resampling.NEAREST)
    return Scene(image=np.array(image), labels=np.array(labels), names=scene.names, key=scene.key)


def mosaic_indices(names: Sequence[str], *, count: int, seed: int, grid: int = 2) -> list[tuple[int, ...]]:
    """``count`` groups of ``grid * grid`` indices whose ``names`` all differ; every index comes up about equally often.

    Raises FusionerError where there are too few different names.
    """
    tiles = grid * grid
    if len(set(names)) < tiles:
        raise FusionerError(f"a {grid}x{grid} mosaic needs {tiles} different names, there are {len(set(names))}")
    rng = np.random.default_rng(seed)
    groups: list[tuple[int, ...]] = []
    queue: list[int] = []
    while len(groups) < count:
        chosen: list[int] = []
        while len(chosen) < tiles:
            if not queue:
                queue = [int(i) for i in rng.permutation(len(names))]
            taken = {names[index] for index in chosen}
            place = next((place for place, index in enumerate(queue) if names[index] not in taken), None)
            if place is None:
                queue = []
            else:
                chosen.append(queue.pop(place))
        groups.append(tuple(chosen))
    return groups


class Mosaics:
    """Mosaics of ``scenes`` by groups of their indices, composed when they are asked for."""

    def __init__(self, scenes: Scenes, indices: Sequence[tuple[int, ...]], *, size: int, grid: int = 2) -> None:
        self.scenes, self.indices, self.size, self.grid = scenes, list(indices), size, grid
        self.fingerprint = fingerprint(scenes.fingerprint, "mosaic", self.indices, size, grid)

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of mosaic ``index``, tile by tile."""
        return tuple(self.scenes.names(place)[0] for place in self.indices[index])

    def __getitem__(self, index: int) -> Scene:
        return mosaic([self.scenes[place] for place in self.indices[index]], grid=self.grid, size=self.size)


def mosaicked(source: Scenes, *, size: int, count: int, seed: int) -> Mosaics:
    """``count`` Mosaic-4 scenes from one-object scenes."""
    indices = mosaic_indices([source.names(i)[0] for i in range(len(source))], count=count, seed=seed)
    return Mosaics(source, indices, size=size)
