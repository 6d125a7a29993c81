"""Copy-paste scenes: labels exact, all objects visible, no trace of the first object's old place."""

import numpy as np
import pytest

from fusionerlib.datasets.openmoji.scenes import OBJECT_SIDE, Pastes, paste
from fusionerlib.datasets.scene import Scene, Scenes

from .conftest import FlatScene, flat_colour
from .test_mosaics import Listed


def test_labelled_pixels_are_exactly_the_objects(flat_scene: FlatScene) -> None:
    """Each object has a flat colour: its labelled pixels have it (thin tips may mix with the old background, never with
    another object), and no other pixel of the scene does.
    """
    mixed = labelled = 0
    for seed in range(40):
        scene = paste([flat_scene(k) for k in range(4)], size=128, rng=np.random.default_rng(seed))
        assert scene.names == ("n0", "n1", "n2", "n3")
        for k in range(4):
            coloured, mask = (scene.image == flat_colour(k)).all(-1), scene.mask(f"n{k}")
            assert mask.any() and not (coloured & ~mask).any()
            others = [(scene.image[mask] == flat_colour(other)).all(-1).any() for other in range(4) if other != k]
            assert not any(others)
            mixed, labelled = mixed + int((mask & ~coloured).sum()), labelled + int(mask.sum())
        assert (scene.image[scene.labels == 0] == 10).all()
    assert mixed / labelled < 0.002


def test_objects_are_mostly_visible(flat_scene: FlatScene) -> None:
    """Against the same object pasted last, when nothing hides it."""
    hidden = []
    for seed in range(60):
        scene = paste([flat_scene(k) for k in range(4)], size=128, rng=np.random.default_rng(seed))
        for k in range(4):
            rows, columns = np.nonzero(scene.mask(f"n{k}"))
            assert len(rows) > 40, "a name without a visible object"
            tall, wide = min(10 + 8 * k, 45), 40 - 6 * k
            longer = max(np.ptp(rows), np.ptp(columns)) + 1
            whole = np.pi / 4 * longer**2 * min(tall, wide) / max(tall, wide)
            hidden.append(1 - len(rows) / whole)
    assert np.mean(np.array(hidden) < 0.2) > 0.9


def test_mixed_edges_are_not_pasted() -> None:
    """An object whose rim is half background, as in any photo: the rim stays behind, thin parts stay whole."""
    labels = np.zeros((100, 100), dtype=np.uint8)
    labels[20:80, 20:60] = 1
    labels[48:51, 60:90] = 1
    image = np.full((100, 100, 3), 10, dtype=np.uint8)
    image[labels == 1] = 250
    rim = np.zeros_like(labels, dtype=bool)
    rim[20:80, 20:60], rim[21:79, 21:59] = True, False
    image[rim] = 130
    scene = Scene(image=image, labels=labels, names=("pan",), key="0")
    made = paste([scene], size=140, rng=np.random.default_rng(0))
    inside = made.mask("pan")
    assert (made.image[inside] > 200).mean() > 0.97
    # In one piece, and the handle's share of the width is what it was.
    heights = inside.sum(0)
    columns = np.nonzero(heights)[0]
    assert len(columns) == np.ptp(columns) + 1
    assert (heights[columns] < 10).mean() == pytest.approx(30 / 70, abs=0.06)


def test_the_first_objects_old_place_is_painted_over(flat_scene: FlatScene) -> None:
    scene = paste([flat_scene(1)], size=128, rng=np.random.default_rng(0))
    longer = max(np.ptp(np.nonzero(scene.labels)[0]), np.ptp(np.nonzero(scene.labels)[1])) + 1
    assert OBJECT_SIDE[0] * 128 - 4 <= longer <= OBJECT_SIDE[1] * 128 + 1
    assert (scene.image[scene.labels == 0] == 10).all()


def test_scenes_of_one_name_share_a_label(flat_scene: FlatScene) -> None:
    scene = paste([flat_scene(0), flat_scene(1), flat_scene(0)], size=128, rng=np.random.default_rng(1))
    assert scene.names == ("n0", "n1")
    assert set(np.unique(scene.labels)) == {0, 1, 2}


def test_objects_that_fill_or_miss_their_image_are_no_error(flat_scene: FlatScene) -> None:
    full, empty = flat_scene(0), flat_scene(1)
    full.labels[:], empty.labels[:] = 1, 0
    scene = paste([full, empty, flat_scene(2)], size=64, rng=np.random.default_rng(0))
    assert scene.names == ("n0", "n1", "n2")
    assert scene.mask("n0").any() and not scene.mask("n1").any()


def test_pastes_are_decided_by_seed_and_place(flat_scene: FlatScene) -> None:
    source = Listed([flat_scene(k) for k in range(4)])
    groups = [(0, 1), (2, 3, 1), (0, 1)]
    made = Pastes(source, groups, size=64, seed=3)
    assert isinstance(made, Scenes) and len(made) == 3
    assert made.names(1) == made[1].names == ("n2", "n3", "n1")
    assert (made[1].image == Pastes(source, groups, size=64, seed=3)[1].image).all()
    assert (made[0].labels != made[2].labels).any()
    others = [
        Pastes(source, groups, size=64, seed=4),
        Pastes(source, groups, size=96, seed=3),
        Pastes(source, groups[:2], size=64, seed=3),
    ]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 4
