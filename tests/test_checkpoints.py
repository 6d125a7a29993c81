"""Checkpoints of version 0.1 (format 1) are refused with the command that converts them, and keep their logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fusionerlib import checkpoints
from fusionerlib.cli.app import app
from fusionerlib.cli.train import configured
from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError

FORMAT_1: dict[str, Any] = {
    "format": 1,
    "run": {
        "pair": {
            "visual": "packaged",
            "text": "packaged",
            "visual_weights": "",
            "text_weights": "",
            "visual_tokens": "classes",
            "text_tokens": "classes",
            "templates": "none",
            "synonyms": "everyday",
            "precision": "float32",
            "compiled": False,
        },
        "fusion": {
            "preset": "modern",
            "kind": "maps",
            "width": 8,
            "depth": 2,
            "late_depth": 0,
            "heads": 8,
            "mlp_ratio": 4,
            "dropout": 0.1,
            "temperature": 0.07,
            "logit_bias": -2.0,
            "decoder_width": 0,
            "decoder_scales": [2],
            "upsample": "features",
            "context": 2,
            "likeness": "classes",
            "presence": False,
            "evidence": 1.0,
            "modality": True,
            "offset": 0.2,
        },
        "data": {"dataset": "photos", "root": "data/root", "fold": -1, "size": 320, "mosaics": 9, "pastes": 0},
        "training": {"recipe": "modern", "steps": 600, "batch": 12, "ema": 0.9},
    },
    "visual_width": 10,
    "text_width": 6,
    "trained_names": ["cat", "dog"],
}
"""What version 0.1 wrote, some leaves of data and training left out."""

WIDTHS = {"visual_width": 10, "text_width": 6}

SHAPES = {
    "likeness.batches": (),
    "likeness.prior": (6,),
    "context.0.weight": (2, 4, 1, 1),
    "context.0.bias": (2,),
    "context.1.weight": (2,),
    "context.1.bias": (2,),
    "coarse.0.0.weight": (8, 6, 3, 3),
    "coarse.0.0.bias": (8,),
    "coarse.0.1.weight": (8,),
    "coarse.0.1.bias": (8,),
    "coarse.1.0.weight": (8, 8, 3, 3),
    "coarse.1.0.bias": (8,),
    "coarse.1.1.weight": (8,),
    "coarse.1.1.bias": (8,),
    "fine.0.0.weight": (8, 8, 3, 3),
    "fine.0.0.bias": (8,),
    "fine.0.1.weight": (8,),
    "fine.0.1.bias": (8,),
    "head.weight": (1, 8, 1, 1),
    "head.bias": (1,),
}
"""Weights of that model under the names of version 0.1."""

BEFORE = [
    [
        [0.135, 0.741, 0.67613, 0.14684],
        [0.4791, 1.87856, 2.06328, 0.73317],
        [0.18077, 1.24615, 1.93897, 0.8738],
        [0.03174, 0.19514, 0.58304, 0.23965],
    ],
    [
        [0.16431, 0.97247, 0.79599, 0.14042],
        [0.73693, 2.7841, 2.8637, 0.89355],
        [0.36303, 2.1256, 2.92793, 1.22198],
        [0.05518, 0.39003, 0.92289, 0.3326],
    ],
]
"""Logits that version 0.1 gave with these weights, as it printed them: names, rows, columns."""


def old_weights() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        name: torch.from_numpy(np.asarray(rng.uniform(0.1, 1, shape), np.float32)) for name, shape in SHAPES.items()
    }


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    return (
        torch.from_numpy(rng.random((1, 4, 10), np.float32)),
        torch.from_numpy(rng.random((1, 2, 6), np.float32)),
    )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FORMAT_1))
    save_file(old_weights(), folder / "model.safetensors")
    return folder


def write(folder: Path, **fusion: Any) -> None:
    """The config of format 1 with other leaves of its section ``fusion``."""
    run = {**FORMAT_1["run"], "fusion": {**FORMAT_1["run"]["fusion"], **fusion}}
    (folder / "config.json").write_text(json.dumps({**FORMAT_1, "run": run}))


def test_an_old_checkpoint_is_refused_with_the_command_that_converts_it(old: Path, tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=rf"version 0\.1 \(format 1\).*`fusioner convert {old}`"):
        checkpoints.load(old)
    with pytest.raises(FusionerError, match=rf"of version 0\.1: .*`fusioner convert {old}`"):
        configured(old / "config.json", [])
    told = CliRunner().invoke(app, ["convert", str(old), "-o", str(tmp_path / "new")])
    assert told.exit_code == 0 and str(tmp_path / "new") in told.output
    checkpoint = checkpoints.load(tmp_path / "new")
    assert json.loads((old / "config.json").read_text()) == FORMAT_1, "the old one stays"
    decoder = {"decoder_width": 0, "upsample": "features"}
    leaves = {"width": 8, "guidance_channels": 2, "dataset": "photos", "root": "data/root", "fold": -1, "size": 320}
    assert checkpoint.run == RunConfig.flat(preset="modern", steps=600, examples=False, **decoder, **leaves)
    assert checkpoint.trained_names == ("cat", "dog")
    patches, text = tokens()
    with torch.no_grad():
        logits = checkpoint.model(patches, text, grid=(2, 2), size=(4, 4))[0]
    torch.testing.assert_close(logits, torch.tensor(BEFORE), atol=3e-5, rtol=0)


def test_a_conversion_in_place_can_be_run_again_and_keeps_the_number_format(old: Path) -> None:
    halves = {name: tensor.half() for name, tensor in old_weights().items()}
    save_file(halves, old / "model.safetensors")
    assert checkpoints.convert(old) == old
    kept = load_file(old / "model.safetensors")
    assert torch.equal(kept["statistics.prior"], halves["likeness.prior"])
    assert torch.equal(kept["guidance.0.weight"], halves["context.0.weight"])
    assert checkpoints.load(old).run.fusion.similarity == "class_posteriors"
    write(old)  # as if the process had been stopped after the weights and before the config
    assert set(load_file(checkpoints.convert(old) / "model.safetensors")) == set(kept)
    with pytest.raises(FusionerError, match="has format 2, only format 1"):
        checkpoints.convert(old)


@pytest.mark.parametrize(
    ("kind", "now"), [("fusioner", "fusioner"), ("late", "late"), ("spnet", "spnet"), ("similarity", "training_free")]
)
def test_models_whose_weights_kept_their_names_are_converted_too(old: Path, kind: str, now: str) -> None:
    fresh = checkpoints.build(
        RunConfig.flat(preset="modern", kind=now, width=8, heads=2, decoder_width=0).fusion, **WIDTHS
    )
    save_file({name: tensor.contiguous() for name, tensor in fresh.state_dict().items()}, old / "model.safetensors")
    write(old, kind=kind, heads=2)
    model = checkpoints.load(checkpoints.convert(old)).model
    assert model.config.kind == now
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_converted_is_told_and_nothing_is_written(old: Path, tmp_path: Path) -> None:
    write(old, presence=True)
    with pytest.raises(FusionerError, match=r"trained with presence = True, which is gone: use version 0\.1"):
        checkpoints.convert(old, tmp_path / "new")
    write(old, width=16)
    with pytest.raises(FusionerError, match=r"model\.safetensors is not of the model"):
        checkpoints.convert(old, tmp_path / "new")
    (old / "config.json").write_text('{"format": 1, "run": {"fusion": {"kind": "maps"}, "data": 3}}')
    with pytest.raises(FusionerError, match="not a checkpoint's config"):
        checkpoints.convert(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
