"""What the tests of training start in processes of their own: trainings on the shapes, with everything made from seeds.

``python -m tests.launched FOLDER LEAVES ...`` trains each config (its leaves as JSON) in a folder of its own, named by
its place; the main process leaves its losses and weights there.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib.config import RunConfig
from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.encoders.registry import load_text
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel
from fusionerlib.training.batch_sources import BatchSource, OnlineBatchSource, StoredBatchSource
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.loop import train
from fusionerlib.training.resume import History
from tests.shapes import Shapes

SMALL: dict[str, Any] = {"preset": "small", "templates": "none"}
SMALL |= {"width": 16, "heads": 2, "depth": 1, "decoder_width": 8, "batch": 4, "warmup": 2, "steps": 4}
SMALL |= {"loss_stride": 4, "positives": 2, "negatives": 2, "validate_every": 1, "checkpoint_every": 2, "size": 64}


class Squares:
    """A frozen tower without weights: the mean colour of every square of 16 pixels, in 12 channels."""

    name, width, stride, multiple, fingerprint = "squares", 12, 16, 16, "squares"

    def __call__(self, images: Tensor, *, outside: Tensor | None = None) -> VisualTokens:
        means = reduce(images / 255, "b c (h y) (w x) -> b h w c", "mean", y=16, x=16)
        mixed = means @ torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
        main = TokenMap(rearrange(mixed, "b h w d -> b (h w) d"), (mixed.shape[1], mixed.shape[2]), 16, "squares")
        return VisualTokens({"last": main}, "last")


def config(**changes: Any) -> RunConfig:
    """A run so small that a step takes milliseconds."""
    return RunConfig.flat(**{**SMALL, **changes})


def source_of(run: RunConfig, store: Path) -> BatchSource:
    """The shapes as ``run`` asks for them."""
    if run.training.feed == "stored":
        return StoredBatchSource(FeatureStore(store, encoder=Squares()).add(Shapes(13), quiet=True))
    return OnlineBatchSource(Shapes(13), encoder=Squares(), augmentation="pascal", size=64)


def trained(run: RunConfig, folder: Path) -> tuple[SegmentationModel, History]:
    """``run`` trained in ``folder``, which says in ``reached`` at which step the training is."""
    text_cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
    reached = folder / "reached"

    def validate(model: SegmentationModel) -> dict[str, float]:
        reached.write_text(str(1 + int(reached.read_text() or 0) if reached.is_file() else 1))
        return {}

    folder.mkdir(parents=True, exist_ok=True)
    source = source_of(run, folder.parent / "store")
    return train(run=run, source=source, text_cache=text_cache, directory=folder, validate=validate, quiet=True)


def main(folder: Path, configs: Sequence[str]) -> None:
    for place, leaves in enumerate(configs):
        model, history = trained(config(**json.loads(leaves)), folder / str(place))
        distributed = Distributed.joined("cpu")
        if distributed.main:
            told = {"processes": distributed.count, "losses": [row["loss"] for row in history]}
            (folder / f"{place}.json").write_text(json.dumps(told))
            save_file(
                {key: value.contiguous() for key, value in model.state_dict().items()}, folder / f"{place}.safetensors"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
