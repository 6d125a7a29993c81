"""Scenes of coloured rectangles, as arrays or as a folder in the layout of one's own data."""

from pathlib import Path

import numpy as np
from PIL import Image

from fusionerlib.datasets.scene import Scene

CLASSES = ("cat", "dog", "armadillo")


def drawn_scenes(count: int = 5) -> list[Scene]:
    """Two rectangles in each of ``count`` images of 60 x 80 pixels, and a strip that is ignored."""
    rng, scenes = np.random.default_rng(0), []
    for index in range(count):
        shown = [CLASSES[index % 3], CLASSES[(index + 1) % 3]]
        image, labels = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), np.zeros((60, 80), dtype=np.uint8)
        for place in range(2):
            area = np.s_[5 : 35 + 5 * place, 5 + 38 * place : 35 + 38 * place]
            image[area] = rng.integers(0, 255, 3)
            labels[area] = place + 1
        labels[55:] = 255
        scenes.append(Scene(image=image, labels=labels, names=tuple(shown), key=f"{index}"))
    return scenes


class Listed(list[Scene]):
    """A list of scenes as a data set."""

    fingerprint = "listed"

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``."""
        return self[index].names


def draw_folder(root: Path, count: int = 5) -> Path:
    """``drawn_scenes`` as ``images``, ``masks`` and ``names.txt``."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "names.txt").write_text("\n".join(CLASSES))
    for scene in drawn_scenes(count):
        table = np.zeros(256, dtype=np.uint8)
        table[255] = 255
        table[1:3] = [CLASSES.index(name) + 1 for name in scene.names]
        Image.fromarray(scene.image).save(root / "images" / f"{scene.key}.png")
        Image.fromarray(table[scene.labels]).save(root / "masks" / f"{scene.key}.png")
    return root
