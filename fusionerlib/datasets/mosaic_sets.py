"""Which mosaics a data set is tested on."""

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000, openmoji
from fusionerlib.datasets.mosaic import mosaicked
from fusionerlib.datasets.openmoji_sets import test_sources
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError


def mosaic_sets(config: DataConfig, *, count: int, seed: int) -> dict[str, Scenes]:
    """Mosaic-4 of the OpenMoji tests: ``count`` of unseen ``objects``, half as many of ``seen`` and ``combinations``.

    Raises FusionerError for a data set that is not in the FSS-1000 layout.
    """
    if config.dataset == "fss1000":
        return {"objects": fss1000.mosaics(config.root, size=config.size)}
    if config.dataset != "openmoji":
        raise FusionerError(
            f"dataset {config.dataset!r} has no one-object scenes to make mosaics of: use 'openmoji' or 'fss1000'"
        )
    sources = test_sources(config.root, openmoji.load_splits(config.root))
    return {
        name: mosaicked(
            source, size=config.size, count=count if name == "objects" else -(-count // 2), seed=seed + place
        )
        for place, (name, source) in enumerate(sources.items())
    }
