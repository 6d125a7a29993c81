"""Several data sets one after the other."""

import hashlib

import numpy as np

from fusionerlib.datasets.scene import Scene, Scenes


class Joined:
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
