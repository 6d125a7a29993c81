"""The store gives back what the encoder says, computes nothing twice, and survives broken files."""

import pytest
import torch

from fusionerlib.datasets.scene import Scenes
from fusionerlib.encoders.registry import load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.features import FeatureStore, entry_id
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


def test_a_broken_shard_is_named(tmp_path, visual) -> None:
    store = FeatureStore(tmp_path, encoder=visual)
    store.add(Shapes(2), quiet=True)
    shard = next(store.folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(FusionerError, match=f"{shard.name}.*delete it"):
        FeatureStore(tmp_path, encoder=visual).add(Shapes(2), quiet=True)
