"""Any visual encoder with any text encoder: sixteen tiny pairs from training to masks, and frozen is frozen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from fusionerlib import Segmenter, checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.encoders import registry
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.training.batch_sources import StoredBatchSource
from fusionerlib.training.loop import train
from tests.encoders import open_clip_models, vision_models
from tests.encoders.text_models import publish_bert
from tests.shapes import COLOURS, Shapes

NAMES = [f"{colour} box" for colour in COLOURS]
VISUAL = ("packaged", "tiny-clip", "tiny-mocov3", "timm:test_vit.r160_in1k")
TEXT = ("packaged", "tiny-clip", "hf", "vectors")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], dict[str, str]]]:
    """What a config says of each tiny encoder: its name, and where its weights are, in their published formats."""
    import timm

    root = tmp_path_factory.mktemp("published")
    clip = open_clip_models.publish(
        open_clip_models.random_model(open_clip_models.TINY_VIT).state_dict(), root / "clip"
    )
    moco = {
        f"module.base_encoder.{name}": tensor
        for name, tensor in vision_models.vit_state(width=48, depth=1, patch=16, grid=14).items()
    }
    torch.save({"epoch": 300, "state_dict": moco}, root / "moco.pth.tar")
    network = timm.create_model("test_vit.r160_in1k", pretrained=False)
    save_file(network.state_dict(), root / "test_vit.safetensors")
    (root / "bert").mkdir()
    publish_bert(root / "bert")
    vectors = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(np.random.default_rng(0).normal(size=len(NAMES) * 12).astype(np.float16)), 12
    )
    parquet.write_table(pyarrow.table({"name": NAMES, "vector": vectors}), root / "names.parquet")

    options = {"config": open_clip_models.TINY_VIT, "quick_gelu": True}
    rows = [
        open_clip_models.spec("visual", **options),
        open_clip_models.spec("text", tokens=("pooled",), **options),
        vision_models.small("mocov3-vits16", embed_dim=48, depth=1, num_heads=4),
    ]
    names = ("tiny-clip", "tiny-clip", "tiny-mocov3")
    rows = [row.model_copy(update={"name": name}) for row, name in zip(rows, names, strict=True)]
    for row in rows:
        registry.add_encoder(row)
    yield {
        ("visual", "packaged"): {"visual": "packaged"},
        ("visual", "tiny-clip"): {"visual": "tiny-clip", "visual_weights": str(clip)},
        ("visual", "tiny-mocov3"): {"visual": "tiny-mocov3", "visual_weights": str(root / "moco.pth.tar")},
        ("visual", VISUAL[3]): {"visual": VISUAL[3], "visual_weights": str(root / "test_vit.safetensors")},
        ("text", "packaged"): {"text": "packaged"},
        ("text", "tiny-clip"): {"text": "tiny-clip", "text_weights": str(clip)},
        ("text", "hf"): {"text": f"hf:{root / 'bert'}"},
        ("text", "vectors"): {"text": f"vectors:{root / 'names.parquet'}"},
    }
    for row in rows:
        del registry._specs()[row.role, row.name]


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("visual", VISUAL)
def test_two_steps_a_checkpoint_and_masks(published: Any, tmp_path: Path, visual: str, text: str) -> None:
    given = published["visual", visual] | published["text", text]
    small = {"width": 16, "heads": 2, "depth": 1, "decoder_width": 8, "steps": 2, "batch": 2, "size": 64, "warmup": 0}
    run = RunConfig.flat(**given, **small)
    encoder, text_cache = visual_of(run.pair), text_cache_of(run.pair)
    assert (text_cache.encoder.space == encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).main.space) == (
        visual == text == "tiny-clip"
    )
    towers: dict[str, Any] = {"visual": encoder, "text": text_cache.encoder}
    before = {side: [tensor.clone() for tensor in tensors(tower)] for side, tower in towers.items()}
    scenes = FeatureStore(tmp_path / "features", encoder=encoder).add(Shapes(4), quiet=True)
    given = {"run": run, "source": StoredBatchSource(scenes), "text_cache": text_cache}
    model, history = train(**given, directory=tmp_path / "training", quiet=True)
    assert len(history) == 2 and all(np.isfinite(row["loss"]) for row in history)

    for side, tower in towers.items():
        assert all(torch.equal(*pair) for pair in zip(tensors(tower), before[side], strict=True))
        assert not any(p.requires_grad or p.grad is not None for p in getattr(tower, "parameters", list)())

    checkpoints.save(tmp_path / "checkpoint", model=model, run=run, trained_names=NAMES)
    photo = Shapes(1)[0].image
    found = Segmenter.load(tmp_path / "checkpoint").set_image(photo).segment(NAMES[:3])
    direct = Segmenter(model=model, visual=encoder, text_cache=text_cache, size=64).set_image(photo).segment(NAMES[:3])
    assert found.masks.shape == (3, 64, 64)
    torch.testing.assert_close(found.logits, direct.logits, atol=1e-4, rtol=1e-4)


def tensors(tower: Any) -> list[torch.Tensor]:
    """Everything that a tower holds; a table of vectors is no network."""
    return [*tower.state_dict().values()] if isinstance(tower, torch.nn.Module) else []
