"""The store returns the encoder's tokens, computes nothing twice, is shared by processes, and survives broken files and
killed processes."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionerlib.config import RunConfig
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.transforms import Views
from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.encoders.registry import load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.features import store
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import FeatureStore, entry_id
from tests.shapes import Shapes


@pytest.fixture(scope="module")
def visual():
    return load_visual("packaged")


def test_stored_tokens_are_the_encoders(tmp_path, visual) -> None:
    scenes = Shapes(5)
    assert isinstance(scenes, Scenes)
    stored = FeatureStore(tmp_path, encoder=visual).add(scenes, quiet=True)
    for index in range(5):
        scene = scenes[index]
        direct = visual(torch.from_numpy(scene.image).permute(2, 0, 1)[None]).main
        assert stored[index].tokens.shape == (*direct.grid, visual.width)
        torch.testing.assert_close(
            stored[index].tokens.reshape(direct.tokens[0].shape), direct.tokens[0], atol=1e-3, rtol=1e-3
        )
        assert (stored[index].labels.numpy() == scene.labels).all()
        assert stored[index].names == scene.names == stored.names(index)


def test_nothing_is_computed_or_opened_twice(tmp_path, visual, monkeypatch) -> None:
    first = FeatureStore(tmp_path, encoder=visual).add(Shapes(6), quiet=True)
    again = Shapes(6)
    store = FeatureStore(tmp_path, encoder=visual)
    calls = []
    monkeypatch.setattr(visual, "forward", lambda images: calls.append(len(images)))
    stored = store.add(again, quiet=True)
    assert again.opened == 0 and calls == []
    assert torch.equal(stored[3].tokens, first[3].tokens)
    other = Shapes(6)
    other.fingerprint = "same scenes by another recipe"
    store.add(other, quiet=True)
    assert other.opened == 6 and calls == []


def test_id_follows_pixels_and_labels() -> None:
    scene, other = Shapes(2)[0], Shapes(2, seed=1)[0]
    assert entry_id(scene) == entry_id(Shapes(2)[0]) != entry_id(other)
    scene.labels[5, 5] ^= 1
    assert entry_id(scene) != entry_id(Shapes(2)[0])


def test_a_cut_shard_is_named_and_computed_again(tmp_path, visual, capsys) -> None:
    store = FeatureStore(tmp_path, encoder=visual)
    before = store.add(Shapes(2), quiet=True)[1]
    shard = next(store.folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    again = FeatureStore(tmp_path, encoder=visual).add(Shapes(2), quiet=True)[1]
    assert torch.equal(again.tokens, before.tokens)
    assert f"{shard} is damaged" in capsys.readouterr().err


def test_a_shard_of_a_version_without_digests_is_left_and_told(tmp_path, visual, capsys) -> None:
    store = FeatureStore(tmp_path, encoder=visual)
    store.add(Shapes(2), quiet=True)
    shard = next(store.folder.glob("*.safetensors"))
    old = store.folder / "old.safetensors"
    save_file(load_file(shard), old)
    shard.unlink()
    assert len(FeatureStore(tmp_path, encoder=visual).add(Shapes(2), quiet=True)) == 2
    assert old.is_file() and shard.is_file()
    assert capsys.readouterr().err.count("1 feature shards without digests") == 1


class Corners:
    """An encoder whose tokens are the colours (0-1) of every 16th pixel. It counts its images in a file, and can be
    slow or hang at an image."""

    name, width, stride, multiple, fingerprint = "corners", 3, 16, 16, "c0ffee" * 8

    def __init__(self, count: Path | None = None, *, seconds: float = 0.0, stuck_at: int = -1) -> None:
        self.count, self.seconds, self.stuck_at, self.seen = count, seconds, stuck_at, 0

    def __call__(self, images: Tensor, *, outside: Tensor | None = None) -> VisualTokens:
        """Patch tokens of RGB images, 0-255."""
        self.seen += len(images)
        if self.count is not None:
            self.count.write_text(str(self.seen))
        time.sleep(3600 if 0 <= self.stuck_at < self.seen else self.seconds)
        kept = images[:, :, ::16, ::16].float() / 255
        tokens = kept.flatten(2).transpose(1, 2).contiguous()
        return VisualTokens({"main": TokenMap(tokens, (kept.shape[2], kept.shape[3]), 16, "colours")}, "main")


def fill(root: Path, count: Path, scenes: int, seconds: float, stuck_at: int, ready: object) -> None:
    """A process that adds shapes to the store at ``root``, in groups of 16."""
    store.SHARD = 16  # the tests' own is set by monkeypatch
    ready.wait()  # type: ignore[attr-defined]
    encoder = Corners(count, seconds=seconds, stuck_at=stuck_at)
    FeatureStore(root, encoder=encoder).add(Shapes(scenes), quiet=True)


def assert_whole(root: Path, scenes: int) -> None:
    """The store at ``root`` holds the shapes' tokens and labels, without an image being opened or left over."""
    shapes, encoder = Shapes(scenes), Corners()
    stored = FeatureStore(root, encoder=encoder).add(shapes, quiet=True)
    assert shapes.opened == encoder.seen == 0
    for index, scene in enumerate(map(shapes.__getitem__, range(scenes))):
        expected = scene.image[::16, ::16].astype(np.float16) / np.float16(255)
        np.testing.assert_allclose(stored[index].tokens.numpy(), expected, atol=5e-4)
        assert (stored[index].labels.numpy() == scene.labels).all() and stored[index].names == scene.names


def test_two_processes_share_the_filling(tmp_path, monkeypatch) -> None:
    context = multiprocessing.get_context("spawn")
    ready, counts = context.Barrier(2), [tmp_path / "one", tmp_path / "two"]
    fillers = [context.Process(target=fill, args=(tmp_path, count, 160, 0.05, -1, ready)) for count in counts]
    for process in fillers:
        process.start()
    for process in fillers:
        process.join(60)
    assert [process.exitcode for process in fillers] == [0, 0]
    seen = [int(count.read_text()) for count in counts]
    assert sum(seen) == 160 and min(seen) >= 16
    monkeypatch.setattr(store, "SHARD", 16)
    assert_whole(tmp_path, 160)
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {"", ".safetensors", ".json"}


def test_a_killed_process_loses_only_its_last_groups(tmp_path, monkeypatch) -> None:
    context = multiprocessing.get_context("spawn")
    ready, count = context.Barrier(1), tmp_path / "count"
    filler = context.Process(target=fill, args=(tmp_path, count, 80, 0.0, 48, ready))
    filler.start()
    deadline = time.monotonic() + 60
    while not (count.is_file() and count.read_text() == "64") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(filler.pid, signal.SIGKILL)
    filler.join(10)
    monkeypatch.setattr(store, "SHARD", 16)
    encoder = Corners()
    FeatureStore(tmp_path, encoder=encoder).add(Shapes(80), quiet=True)
    # The fifth group had not begun, the fourth was in the encoder, the third perhaps being written.
    assert encoder.seen in (32, 48)
    assert_whole(tmp_path, 80)


def test_a_failed_filling_leaves_no_claim(tmp_path) -> None:
    class Broken(Corners):
        def __call__(self, images: Tensor, *, outside: Tensor | None = None) -> VisualTokens:
            tokens = super().__call__(images)
            tokens.main.tokens[0, 0, 0] = float("nan")
            return tokens

    store = FeatureStore(tmp_path, encoder=Broken())
    with pytest.raises(FusionerError, match=r"can.t be stored") as kept:
        store.add(Shapes(4), quiet=True)
    FeatureStore(tmp_path, encoder=Corners()).add(Shapes(4), quiet=True)
    assert kept.value.__traceback__ is not None
    assert_whole(tmp_path, 4)


def test_an_empty_list_is_made_again(tmp_path) -> None:
    store = FeatureStore(tmp_path, encoder=Corners())
    store.add(Shapes(4), quiet=True)
    next(store.folder.rglob("*.json")).write_text("")
    shapes, encoder = Shapes(4), Corners()
    FeatureStore(tmp_path, encoder=encoder).add(shapes, quiet=True)
    assert shapes.opened == 4 and encoder.seen == 0
    assert_whole(tmp_path, 4)


def test_groups_and_sizes_keep_their_order(tmp_path, monkeypatch) -> None:
    class Mixed(Shapes):
        def __getitem__(self, index: int):
            return Shapes(self.count, size=(64, 96)[index % 2])[index]

    monkeypatch.setattr(store, "SHARD", 20)
    scenes = Mixed(50)
    stored = FeatureStore(tmp_path, encoder=Corners()).add(scenes, quiet=True)
    assert [scene.key for scene in stored] == [f"shapes/{index}" for index in range(50)]
    for index in (0, 1, 19, 20, 41, 49):
        assert stored[index].tokens.shape[0] == (4, 6)[index % 2]
        assert (stored[index].labels.numpy() == scenes[index].labels).all()
    tokens, labels = stored.batch([4, 46, 4])
    assert all(torch.equal(tokens[row], stored[index].tokens) for row, index in enumerate([4, 46, 4]))
    assert all(torch.equal(labels[row], stored[index].labels) for row, index in enumerate([4, 46, 4]))


def test_every_view_is_stored(tmp_path) -> None:
    views = Views(Shapes(3), views=4, seed=0, size=64)
    stored = FeatureStore(tmp_path, encoder=Corners()).add(views, quiet=True)
    assert len(stored) == 12 and len({entry.id for entry in stored.entries}) == 12
    for index in (0, 3, 7):
        np.testing.assert_allclose(stored[index].tokens, views[index].image[::16, ::16] / 255.0, atol=5e-4)


def test_int8_is_near_and_smaller(tmp_path, visual) -> None:
    scenes = Shapes(5)
    half, small = (
        FeatureStore(tmp_path, encoder=visual, number_format=name).add(scenes, quiet=True)
        for name in ("float16", "int8")
    )
    assert half.store.folder != small.store.folder and small.store.folder.name.endswith("-int8")
    tokens, near = half.batch(range(5))[0], small.batch(range(5))[0]
    assert 0 < (near - tokens).norm() / tokens.norm() < 0.01
    # 432 channels are 6 whole blocks of 64 and a part of one.
    assert half.image_bytes == 64 * 64 + 4 * 4 * 432 * 2
    assert small.image_bytes == 64 * 64 + 4 * 4 * (432 + 7 * 2)
    for stored in (half, small):
        [shard] = stored.store.folder.glob("*.safetensors")
        assert 5 * stored.image_bytes < shard.stat().st_size < 5 * stored.image_bytes + 5000


def test_the_config_says_how_features_are_stored(tmp_path, visual) -> None:
    run = RunConfig.flat(store="int8", features=str(tmp_path))
    assert RunContext(run).store.folder.parent == tmp_path and RunContext(run).store.folder.name.endswith("-int8")
    assert json.loads(run.model_dump_json())["data"]["store"] == "int8"
