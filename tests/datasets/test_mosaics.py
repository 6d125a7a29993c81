"""Mosaic-4: every tile is its scene resized, names differ, scenes come up equally often."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusionerlib.datasets.mosaics import Mosaics, mosaic, mosaic_indices
from fusionerlib.datasets.scene import Scene, Scenes, resized
from fusionerlib.errors import FusionerError
from fusionerlib.files import fingerprint

from .conftest import FlatScene


class Listed:
    """Scenes from a list."""

    fingerprint = "listed"

    def __init__(self, scenes: list[Scene]) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def names(self, index: int) -> tuple[str, ...]:
        return self.scenes[index].names

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[index]


@pytest.mark.parametrize(("grid", "size"), [(2, 96), (1, 50)])
def test_tiles_equal_scenes_resized_alone(flat_scene: FlatScene, grid: int, size: int) -> None:
    scenes = [flat_scene(k, height=70 + k, width=110 - k) for k in range(grid * grid)]
    made = mosaic(scenes, grid=grid, size=size)
    tile = size // grid
    assert made.names == tuple(scene.names[0] for scene in scenes)
    for place, scene in enumerate(scenes):
        top, left = place // grid * tile, place % grid * tile
        image = np.asarray(Image.fromarray(scene.image).resize((tile, tile), Image.Resampling.BILINEAR))
        mask = np.asarray(Image.fromarray(scene.labels * 255).resize((tile, tile), Image.Resampling.NEAREST)) == 255
        window = np.s_[top : top + tile, left : left + tile]
        assert (made.image[window] == image).all()
        assert (made.labels[window] == np.where(mask, place + 1, 0)).all()
        outside = made.mask(scene.names[0]).copy()
        outside[window] = False
        assert mask.any() and not outside.any()


def test_ignored_pixels_stay_ignored(flat_scene: FlatScene) -> None:
    scenes = [flat_scene(k) for k in range(4)]
    scenes[2].labels[:10] = 255
    assert (mosaic(scenes, size=64).labels[32:35, :32] == 255).all()


def test_resized_pixels_can_be_written(flat_scene: FlatScene) -> None:
    small = resized(flat_scene(0), width=10, height=20)
    assert small.image.shape == (20, 10, 3)
    assert small.image.flags.writeable and small.labels.flags.writeable


def test_bad_mosaics_are_refused(flat_scene: FlatScene) -> None:
    scenes = [flat_scene(k) for k in range(4)]
    with pytest.raises(FusionerError, match="different names"):
        mosaic(scenes[:3], size=64)
    with pytest.raises(FusionerError, match="different names"):
        mosaic([*scenes[:3], scenes[0]], size=64)
    with pytest.raises(FusionerError, match="multiple of 2"):
        mosaic(scenes, size=63)
    with pytest.raises(FusionerError, match="4 different names, there are 3"):
        mosaic_indices(["a", "b", "c", "a"], count=1, seed=0)


@settings(max_examples=40, deadline=None)
@given(
    repeats=st.lists(st.integers(1, 4), min_size=8, max_size=20), count=st.integers(1, 60), seed=st.integers(0, 1000)
)
def test_groups_differ_in_name_and_use_scenes_about_equally(repeats: list[int], count: int, seed: int) -> None:
    names = [f"n{k}" for k, times in enumerate(repeats) for _ in range(times)]
    groups = mosaic_indices(names, count=count, seed=seed)
    assert len(groups) == count
    assert all(len({names[i] for i in group}) == 4 for group in groups)
    assert groups == mosaic_indices(names, count=count, seed=seed)
    used = Counter(i for group in groups for i in group)
    times = [used[i] for i in range(len(names))]
    # A pass over all scenes may drop the last few, where only equal names are left.
    fair = 4 * count / len(names)
    assert max(times) <= fair * 2 + 2
    assert sum(times) == 4 * count


def test_scenes_are_used_equally_where_names_are_all_different() -> None:
    used = Counter(i for group in mosaic_indices([str(k) for k in range(22)], count=55, seed=1) for i in group)
    assert set(used.values()) == {10}


def test_mosaics_compose_on_request_and_their_fingerprint_follows_the_recipe(flat_scene: FlatScene) -> None:
    source = Listed([flat_scene(k) for k in range(5)])
    made = Mosaics(source, [(0, 1, 2, 3), (4, 3, 2, 1)], size=32)
    assert isinstance(made, Scenes) and len(made) == 2
    assert made.names(1) == made[1].names == ("n4", "n3", "n2", "n1")
    assert (made[1].labels == mosaic([source[i] for i in (4, 3, 2, 1)], size=32).labels).all()
    others = [
        Mosaics(source, [(0, 1, 2, 3), (4, 3, 2, 1)], size=64),
        Mosaics(source, [(0, 1, 2, 3), (4, 3, 1, 2)], size=32),
    ]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert made.fingerprint == Mosaics(source, [(0, 1, 2, 3), (4, 3, 2, 1)], size=32).fingerprint
    assert fingerprint("a", 1) != fingerprint("a", "1")
