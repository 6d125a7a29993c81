"""Files of the project that are damaged, hostile or of another version: one message with a remedy, or a way around."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.datasets.openmoji.drawing import SPLITS, load_splits
from fusionerlib.digests import file_digest, write_json
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.features import text
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import build
from fusionerlib.records import read_record, update_metrics
from fusionerlib.training.batch_sources import StoredBatchSource
from fusionerlib.training.resume import TrainingState
from tests.conftest import ROOT
from tests.launched import SMALL, Squares, config, trained
from tests.shapes import Shapes
from workbook.report import read_metrics

NO_JSON = ("", "[]", "3", "null", '"text"', "{", '{"format": 2', "\x00\x01", "[" * 100_000, '{"a": ' * 50_000)
READERS: dict[str, Callable[[Path], Any]] = {
    "metrics.json": read_metrics,
    "record.json": lambda folder: read_record(folder / "record.json"),
    SPLITS: load_splits,
    "config.json": checkpoints.load,
}


@pytest.mark.parametrize("content", [*NO_JSON, b"\xff\xfe{\x00}\x00"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_object_of_json_gives_one_message(name: str, content: str | bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FusionerError) as told:
        READERS[name](tmp_path)
    assert str(tmp_path / name) in str(told.value) and len(str(told.value)) < 700
    assert any(word in str(told.value) for word in ("delete", "remove", "copy it again", "run again"))


def saved(folder: Path) -> dict[str, Any]:
    run = config()
    checkpoints.save(
        folder, model=build(run.fusion, visual_width=8, text_width=6), run=run, trained_names=["cat", "dog"]
    )
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), 3),
        (("format",), "2"),
        (("format",), 2.0),
        (("format",), True),
        (("format",), None),
        (("visual_width",), 10**12),
        (("visual_width",), 8.0),
        (("text_width",), True),
        (("text_width",), 0),
        (("trained_names",), "cat"),
        (("trained_names",), [1]),
        (("parents",), {"a": 1}),
        (("run", "fusion", "width"), 10**12),
        (("run", "fusion", "depth"), 10**6),
        (("run", "fusion", "depth"), 200),
        (("run", "fusion", "width"), 16_000),
        (("run", "fusion", "temperature"), float("nan")),
        (("run", "fusion", "offset"), float("inf")),
        (("run", "fusion", "decoder_scales"), [2, True]),
        (("run", "training", "batch"), 1e30),
        (("run", "training", "lr"), True),
        (("run",), None),
        (("stranger",), 1),
    ],
)
def test_a_config_that_can_t_be_is_refused_at_once(place: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    """Whether its digest was made for it or not, and before memory for such a model is asked for."""
    content = saved(tmp_path)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    for write in (write_json, lambda file, values: file.write_text(json.dumps(values))):
        write(tmp_path / "config.json", content)
        start = time.process_time()
        with pytest.raises(FusionerError, match=r"config\.json|format|is not of the model"):
            checkpoints.load(tmp_path)
        assert time.process_time() - start < 20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value: float, tmp_path: Path) -> None:
    content = saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(key for key, tensor in weights.items() if tensor.ndim == 2)
    weights[name][0, 1] = value
    save_file(weights, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {**content, "sha256": checkpoints.weights_sha256(tmp_path)})
    with pytest.raises(FusionerError, match=rf"{name} holds 1 of \d+ numbers that are NaN .*an earlier checkpoint"):
        checkpoints.load(tmp_path)
    model = build(config().fusion, visual_width=8, text_width=6)
    model.load_state_dict(weights)
    with pytest.raises(FusionerError, match=f"{name} holds 1 .*is not saved"):
        checkpoints.save(tmp_path / "other", model=model, run=config(), trained_names=[])
    assert not (tmp_path / "other").exists()
    state = TrainingState(model, torch.optim.AdamW(model.parameters()), step=4)
    with pytest.raises(FusionerError, match=f"step 4: {name} holds 1 .*is not saved"):
        state.save(tmp_path / "running", {})
    assert not (tmp_path / "running").exists()


@pytest.mark.parametrize("leaf", RunConfig.leaf_sections())
def test_no_leaf_takes_a_number_that_can_t_be_one(leaf: str) -> None:
    """Leaves of every kind: NaN, infinity, 1e30, and truth values where a number is expected."""
    section = next(part for _, part in RunConfig() if leaf in type(part).model_fields)
    default = getattr(section, leaf)
    if isinstance(default, bool | str | Path | None):
        wrong: list[Any] = [float("nan"), 1e30]
    elif isinstance(default, tuple):
        wrong = [(float("nan"),), (10**30,), (True,), [False]]
    else:
        wrong = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 10**400, True, False, "nan", "Infinity"]
        wrong += [np.True_, torch.tensor(True), np.float64("nan")]
    for value in wrong:
        with pytest.raises(FusionerError, match=f"{leaf}|no checkpoint"):
            RunConfig.flat(**{leaf: value})


HOLD = """
import json, sys, time
from pathlib import Path
import fusionerlib.training.loop as loop
from tests.launched import config, trained
def validate_slowly(*args, **kwargs):
    print("training", flush=True)
    time.sleep(60)
import tests.launched
tests.launched.train = lambda **given: loop.train(**{**given, "validate": validate_slowly})
trained(config(), Path(sys.argv[1]))
"""


def test_two_trainings_in_one_folder_are_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "training\n"
        with pytest.raises(FusionerError, match=rf"training in {folder} is going on in another process"):
            trained(config(), folder)
        holder.kill()
    _, history = trained(config(), folder)
    assert len(history) == SMALL["steps"]


def test_where_both_running_checkpoints_are_damaged_the_message_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, _ = trained(config(), tmp_path / "straight")
    stopped = tmp_path / "training"
    trained(config(), stopped)
    newest, before = stopped / "step-0000004", stopped / "step-0000002"
    assert {path.name for path in stopped.glob("step-*")} == {newest.name, before.name}
    (newest / "optimiser.safetensors").write_bytes(b"cut")
    resumed, history = trained(config(), stopped)
    assert f"{newest}/optimiser.safetensors can't be read" in (told := capsys.readouterr().err)
    assert "goes on from step-0000002" in told and len(history) == 4
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in straight.state_dict().items())
    for folder in (newest, before):
        (folder / "state.json").write_text("{}")
    with pytest.raises(FusionerError, match=rf"{newest}/state.json .*{before}/state.json .*delete {stopped} to start"):
        trained(config(), stopped)


def test_a_shard_damaged_while_training_reads_it_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Squares()
    source = StoredBatchSource(FeatureStore(tmp_path, encoder=encoder).add(Shapes(5), quiet=True))
    before = [source.scenes[index].tokens.clone() for index in range(5)]
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)  # the header is whole: it opens, and only reading can tell
    other = StoredBatchSource(FeatureStore(tmp_path, encoder=encoder).add(Shapes(5), quiet=True))
    tokens, _ = other.scenes.batch(range(5))
    assert all(torch.equal(one, two) for one, two in zip(tokens, before, strict=True))
    assert capsys.readouterr().err.count("is not what was written") == 1
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == [shard.name]


def test_a_damaged_shard_without_its_images_is_named(tmp_path: Path) -> None:
    FeatureStore(tmp_path, encoder=Squares()).add(Shapes(2), quiet=True)
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    stored = FeatureStore(tmp_path, encoder=Squares()).add(Shapes(2), quiet=True)
    stored.scenes = None
    with pytest.raises(FusionerError, match=f"{shard} is damaged"):
        stored.batch([0, 1])


def test_metrics_that_were_damaged_cost_no_figures(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(FusionerError, match=r"move it away and run again .* kept in metrics\.unmerged"):
        update_metrics(tmp_path / "metrics.json", {"a": {"miou": 0.5}})
    (tmp_path / "metrics.json").unlink()
    assert update_metrics(tmp_path / "metrics.json", {"b": 1}) == {"a": {"miou": 0.5}, "b": 1}


KINDS = ("folder", "dead link", "loop of links", "pipe", "empty", "text")


def turned_into(file: Path, kind: str) -> None:
    """Put something of ``kind`` in the place of ``file``."""
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        (file / "inner").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(file)
    elif "link" in kind:
        file.symlink_to("/nowhere/at/all" if kind == "dead link" else file)
    else:
        file.write_bytes(b"" if kind == "empty" else b"some text")


def stored(folder: Path) -> list[Any]:
    found = FeatureStore(folder, encoder=Squares()).add(Shapes(5), quiet=True)
    return [(scene.tokens.tolist(), scene.labels.tolist(), scene.names, scene.key) for scene in found]


def asked(folder: Path) -> list[Any]:
    cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"], folder=folder)
    return cast(list[Any], cache.tokens(["cat", "dog"]).tolist())


def measured(folder: Path) -> dict[str, Any]:
    return update_metrics(folder / "metrics.json", {"a": 1})


def weights_of(folder: Path) -> list[Any]:
    model, history = trained(config(), folder)
    return [[tensor.tolist() for tensor in model.state_dict().values()], len(history)]


def made_again(folder: Path) -> Any:
    torch.manual_seed(0)
    return saved(folder)["sha256"]


WRITTEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "list of features": (stored, "squares-*/sets/*/*.json"),
    "shard": (stored, "squares-*/*.safetensors"),
    "words": (asked, "words-*.safetensors"),
    "metrics": (measured, "metrics.json"),
    "lock of metrics": (measured, "metrics.lock"),
    "lock of a training": (weights_of, "training.lock"),
    "running checkpoint": (weights_of, "step-0000004"),
    "state of a training": (weights_of, "step-0000004/state.json"),
    "moments": (weights_of, "step-0000004/optimiser.safetensors"),
    "checkpoint's weights": (made_again, "model.safetensors"),
    "checkpoint's config": (made_again, "config.json"),
}
"""What writes and reads a file, and where that lies."""


@pytest.mark.skipif(os.name != "posix", reason="pipes, and links for everybody")
@pytest.mark.parametrize("name", WRITTEN)
def test_what_lies_in_the_place_of_a_file_is_replaced_or_named(name: str, tmp_path: Path) -> None:
    """A folder, a link, a pipe: a traceback in most of these, and a pipe was waited for without end."""
    make, pattern = WRITTEN[name]
    expected = make(tmp_path / "first")
    for kind in KINDS:
        folder = tmp_path / kind
        make(folder)
        (file,) = folder.glob(pattern)
        turned_into(file, kind)
        try:
            assert make(folder) == expected, kind
        except FusionerError as error:
            assert str(file) in str(error), kind
            assert any(word in str(error) for word in ("delete", "move it", "copy it again", "another")), error


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("step", value) for value in (-1, 10**30, 3, 2.7, True, "4", None)),
        *(("history", value) for value in ("abcd", [], [1, 2, 3, 4], {"a": 1}, [{"x": 1}] * 4)),
        *(("scaler", value) for value in ([1], 3)),
        *(("digests", value) for value in ({}, [])),
    ],
)
def test_a_state_that_no_training_can_have_is_not_believed(key: str, value: Any, tmp_path: Path) -> None:
    """Where its digest was made for it: nine of seventeen such were believed, and a step of 99 ended the training."""
    weights = weights_of(tmp_path)
    state = json.loads((tmp_path / "step-0000004/state.json").read_text())
    write_json(tmp_path / "step-0000004/state.json", {**state, key: value})
    assert weights_of(tmp_path) == weights, "it goes on from the predecessor"
    shutil.rmtree(tmp_path / "step-0000002")
    write_json(tmp_path / "step-0000004/state.json", {**state, key: value})
    with pytest.raises(FusionerError, match=rf"step-0000004/.*delete {tmp_path} to start again"):
        weights_of(tmp_path)


@pytest.mark.parametrize("name", ["x", "x.y", "999.exp_avg", "-1.exp_avg", "0.exp_avg"])
def test_moments_of_no_parameter_are_not_believed(name: str, tmp_path: Path) -> None:
    weights, step = weights_of(tmp_path), tmp_path / "step-0000004"
    save_file({**load_file(step / "optimiser.safetensors"), name: torch.zeros(3)}, step / "optimiser.safetensors")
    state = json.loads((step / "state.json").read_text())
    state["digests"]["optimiser.safetensors"] = file_digest(step / "optimiser.safetensors")
    write_json(step / "state.json", state)
    assert weights_of(tmp_path) == weights


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.pop(),
        lambda rows: rows.append(rows[0]),
        lambda rows: rows.clear(),
        lambda rows: rows[0].update(names="cat"),
        lambda rows: rows[0].update(names=[1]),
        lambda rows: rows[0].update(id=[1]),
        lambda rows: rows[0].update(key=None),
    ],
)
def test_a_list_of_features_that_does_not_fit_is_made_again(
    change: Callable[[list[dict[str, Any]]], Any], tmp_path: Path
) -> None:
    before = stored(tmp_path)
    (listing,) = tmp_path.rglob("*.json")
    rows = json.loads(listing.read_text())["entries"]
    change(rows)
    write_json(listing, {"entries": rows})
    assert stored(tmp_path) == before


@pytest.mark.parametrize("table", [torch.ones(1, 3), torch.full((1, 384), torch.nan), torch.ones(2, 384)])
def test_text_tokens_of_another_shape_or_not_finite_are_encoded_again(table: torch.Tensor, tmp_path: Path) -> None:
    before = asked(tmp_path)
    (file,) = tmp_path.glob("words-*")
    names = '["cat"]'
    save_file({"tokens": table}, file, metadata={"names": names, "digest": text._digest(names, table)})
    assert asked(tmp_path) == before
