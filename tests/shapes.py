"""A tiny data set for tests: coloured rectangles on grey, drawn in memory, one or two a scene."""

import numpy as np

from fusionerlib.datasets.scene import Scene

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 40)}


class Shapes:
    """``count`` scenes of ``size`` pixels; scene i shows colour i, and every other one a second colour too."""

    def __init__(self, count: int, *, size: int = 64, seed: int = 0) -> None:
        self.count, self.size, self.seed = count, size, seed
        self.fingerprint = f"shapes{count}-{size}-{seed}"
        self.opened = 0

    def __len__(self) -> int:
        return self.count

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index``."""
        colours = list(COLOURS)
        first = colours[index % 4]
        second = colours[(index + 1 + index // 4) % 4]
        return (f"{first} box",) if index % 2 or first == second else (f"{first} box", f"{second} box")

    def __getitem__(self, index: int) -> Scene:
        self.opened += 1
        rng = np.random.default_rng((self.seed, index))
        image = np.full((self.size, self.size, 3), 128, dtype=np.uint8)
        image += rng.integers(0, 20, image.shape, dtype=np.uint8)
        labels = np.zeros((self.size, self.size), dtype=np.uint8)
        half = self.size // 2
        for place, name in enumerate(self.names(index)):
            top, left = rng.integers(0, half, 2) + 0
            box = np.s_[top : top + half // 2, place * half + left // 2 : place * half + half // 2 + left // 2]
            image[box] = COLOURS[name.split()[0]]
            labels[box] = place + 1
        labels[:2, :2] = 255
        return Scene(image=image, labels=labels, names=self.names(index), key=f"shapes/{index}")
