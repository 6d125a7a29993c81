"""Selections, one size, and augmented views: joint, reproducible, and silent towards torch's own generator."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.datasets.transforms import Resized, Subset, Views
from fusionerlib.errors import FusionerError

GREY = np.array([20, 50, 80, 110], dtype=np.uint8)
"""The grey of label 0, 1, 2, 3: no jitter of up to one half changes their order or clips the lightest."""


class Blocks:
    """Scenes of four unequal blocks whose grey tells their label; it refuses to be opened when asked not to."""

    fingerprint = "blocks"

    def __init__(self, count: int = 3, *, closed: bool = False, height: int = 90, width: int = 120) -> None:
        self.count, self.closed, self.height, self.width = count, closed, height, width

    def __len__(self) -> int:
        return self.count

    def names(self, index: int) -> tuple[str, ...]:
        return (f"one {index}", "two", "three")

    def __getitem__(self, index: int) -> Scene:
        assert not self.closed, "names must not open the image"
        labels = np.zeros((self.height, self.width), dtype=np.uint8)
        labels[: self.height // 2, self.width // 3 :] = 1
        labels[self.height // 2 :, : self.width // 4] = 2
        labels[self.height // 2 :, 2 * self.width // 3 + index :] = 3
        image = np.repeat(GREY[labels][..., None], 3, axis=2)
        return Scene(image=image, labels=labels, names=self.names(index), key=f"block {index}")


def same(one: Scene, other: Scene) -> bool:
    pixels = np.array_equal(one.image, other.image) and np.array_equal(one.labels, other.labels)
    return pixels and (one.names, one.key) == (other.names, other.key)


def inner(labels: np.ndarray, label: int) -> np.ndarray:
    """The pixels of ``label`` at least three pixels away from any other label and from the border."""
    mask = labels == label
    for axis in (0, 1):
        mask = np.logical_and.reduce([np.roll(mask, shift, axis) for shift in range(-3, 4)])
    mask[:3], mask[-3:], mask[:, :3], mask[:, -3:] = False, False, False, False
    return mask


def test_all_are_data_sets_and_tell_names_without_opening_an_image() -> None:
    blocks = Blocks(3, closed=True)
    subset = Subset(blocks, [2, 0])
    resized, views = Resized(subset, size=32), Views(subset, views=3, seed=0, size=32)
    assert all(isinstance(scenes, Scenes) for scenes in (subset, resized, views))
    assert [len(subset), len(resized), len(views)] == [2, 2, 6]
    assert [subset.names(0)[0], resized.names(1)[0]] == ["one 2", "one 0"]
    assert [views.names(index)[0] for index in range(6)] == ["one 2"] * 3 + ["one 0"] * 3


def test_resized_is_pillow_s_own_resize() -> None:
    scene = Blocks()[1]
    small = Resized(Blocks(), size=32)[1]
    reference = Image.fromarray(scene.image).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(small.image, np.asarray(reference))
    assert set(np.unique(small.labels)) == {0, 1, 2, 3}
    # Nearest: an output pixel shows the input pixel that its centre falls on (none falls between two at this size).
    rows = ((np.arange(32) + 0.5) * 90 / 32).astype(int)
    columns = ((np.arange(32) + 0.5) * 120 / 32).astype(int)
    assert np.array_equal(small.labels, scene.labels[np.ix_(rows, columns)])


def test_view_0_is_the_plain_resize_and_the_others_differ() -> None:
    views, plain = Views(Blocks(), views=4, seed=5, size=48), Resized(Blocks(), size=48)
    for place in range(3):
        shown = [views[place * 4 + view] for view in range(4)]
        assert same(shown[0], plain[place])
        assert all(scene.labels.shape == (48, 48) and scene.names == plain.names(place) for scene in shown)
        assert len({scene.labels.tobytes() for scene in shown}) == 4
        assert len({scene.key for scene in shown}) == 4


def test_a_view_depends_on_seed_scene_and_view_alone() -> None:
    views = Views(Blocks(), views=4, seed=5, size=48)
    forwards = [views[index] for index in range(len(views))]
    torch.manual_seed(99)
    np.random.default_rng(1).random()
    other = Views(Blocks(), views=4, seed=5, size=48)
    backwards = [other[index] for index in reversed(range(len(other)))][::-1]
    assert all(same(one, two) for one, two in zip(forwards, backwards, strict=True))

    fewer = Views(Blocks(), views=2, seed=5, size=48)
    assert same(fewer[2 * 2 + 1], forwards[2 * 4 + 1])
    reseeded = Views(Blocks(), views=4, seed=6, size=48)
    assert not any(np.array_equal(reseeded[index].image, forwards[index].image) for index in (1, 2, 3))


def test_torch_s_own_generator_stays_untouched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    _ = Views(Blocks(), views=2, seed=0, size=32)[1]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.rand(4), expected)


def test_image_and_labels_move_together() -> None:
    """Inside a label the grey is constant, and a larger label is lighter, whatever crop, mirror and jitter did."""
    views = Views(Blocks(), views=21, seed=1, size=64)
    compared, mirrored, recoloured, cropped = 0, 0, 0, 0
    for index in range(1, 21):
        scene = views[index]
        greys = []
        for label in range(4):
            where = inner(scene.labels, label)
            if where.any():
                values = scene.image[where].astype(int)
                assert np.ptp(values) <= 2, (index, label)
                greys.append(values.mean())
        assert np.all(np.diff(greys) > 5), (index, greys)
        compared += len(greys) > 1
        recoloured += abs(greys[-1] - 110) > 3
        # In the scene label 3 lies right of label 2.
        columns = [np.nonzero(scene.labels == label)[1] for label in (2, 3)]
        if all(len(column) for column in columns):
            mirrored += columns[0].mean() > columns[1].mean()
        cropped += (scene.labels == 3).mean() > 0.2 or not (scene.labels == 3).any()
    assert compared == 20
    assert 3 <= mirrored <= 17
    assert 3 <= recoloured <= 17
    assert cropped >= 3


def test_a_name_stays_where_the_crop_left_its_object_out() -> None:
    class Corner(Blocks):
        def __getitem__(self, index: int) -> Scene:
            scene = super().__getitem__(index)
            labels = np.zeros_like(scene.labels)
            labels[:4, :4] = 1
            return Scene(image=scene.image, labels=labels, names=scene.names, key=scene.key)

    views = Views(Corner(1), views=21, seed=0, size=32)
    scenes = [views[index] for index in range(21)]
    assert {bool(scene.mask("one 0").any()) for scene in scenes[1:]} == {True, False}
    assert all(scene.names == ("one 0", "two", "three") for scene in scenes)


def test_ignored_pixels_stay_ignored() -> None:
    class Ignored(Blocks):
        def __getitem__(self, index: int) -> Scene:
            scene = super().__getitem__(index)
            labels = np.where(scene.labels == 1, 255, scene.labels).astype(np.uint8)
            return Scene(image=scene.image, labels=labels, names=scene.names, key=scene.key)

    views, plain = Views(Ignored(1), views=4, seed=1, size=40), Views(Blocks(1), views=4, seed=1, size=40)
    for index in range(4):
        assert np.array_equal(views[index].labels == 255, plain[index].labels == 1)
        assert set(np.unique(views[index].labels)) <= {0, 2, 3, 255}


def test_the_scene_itself_is_not_written_to() -> None:
    kept = Blocks()[0]

    class Kept(Blocks):
        def __getitem__(self, index: int) -> Scene:
            return kept

    _ = [Views(Kept(1), views=9, seed=0, size=32)[index] for index in range(9)]
    assert same(kept, Blocks()[0])


def test_a_fingerprint_follows_every_setting() -> None:
    class Other(Blocks):
        fingerprint = "other"

    made = [
        recipe(scenes)
        for scenes in (Blocks(), Other())
        for recipe in (
            lambda scenes: Subset(scenes, [0, 1]),
            lambda scenes: Subset(scenes, [1, 0]),
            lambda scenes: Resized(scenes, size=32),
            lambda scenes: Resized(scenes, size=64),
            lambda scenes: Views(scenes, views=2, seed=0, size=32),
            lambda scenes: Views(scenes, views=3, seed=0, size=32),
            lambda scenes: Views(scenes, views=2, seed=1, size=32),
            lambda scenes: Views(scenes, views=2, seed=0, size=64),
        )
    ]
    assert len({scenes.fingerprint for scenes in made}) == 16
    assert Views(Blocks(), views=2, seed=0, size=32).fingerprint == made[4].fingerprint


def test_impossible_settings_are_named() -> None:
    with pytest.raises(FusionerError, match="scene 3 is not in a set of 3"):
        Subset(Blocks(3), [0, 3])
    with pytest.raises(FusionerError, match="scene -1"):
        Subset(Blocks(3), [-1])
    with pytest.raises(FusionerError, match="size = 0"):
        Resized(Blocks(), size=0)
    with pytest.raises(FusionerError, match="views = 0"):
        Views(Blocks(), views=0, seed=0, size=32)


def test_views_made_in_threads_are_those_made_one_by_one() -> None:
    views = Views(Blocks(), views=60, seed=3, size=32)
    alone = [views[index] for index in range(len(views))]
    # Threads take turns so often that two of them surely meet between the seed and what is drawn from it.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(views.__getitem__, range(len(views))))
    sys.setswitchinterval(interval)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.labels, other.labels)
