"""Corruptions: each against another way to the same thing, and that nothing but the image changes."""

import numpy as np
import pytest

from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.datasets.transforms import CORRUPTIONS, Bordered, Corrupted, blurred, compressed, noisy
from fusionerlib.errors import FusionerError

from .conftest import FlatScene
from .test_mosaics import Listed


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """Three different slow waves."""
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(rows / a + columns / b) for a, b in ((9, 14), (17, 8), (11, 23))]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("radius", [1, 4])
def test_blur_is_a_gaussian(radius: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[20:40, 16:50] = (250, 120, 30)
    expected = ndimage.gaussian_filter(image.astype(float), (radius, radius, 0), mode="nearest")
    assert np.abs(blurred(image, radius) - expected).mean() < 1.0
    assert (blurred(np.full((20, 20, 3), 77, dtype=np.uint8), radius) == 77).all()


@pytest.mark.parametrize("sigma", [5, 20])
def test_noise_has_its_sigma_and_no_bias(sigma: float) -> None:
    grey = np.full((200, 200, 3), 128, dtype=np.uint8)
    change = noisy(grey, sigma, 3).astype(float) - 128
    assert abs(change.std() - sigma) < 0.02 * sigma + 0.1 and abs(change.mean()) < 0.05 * sigma
    assert abs(np.corrcoef(change[..., 0].ravel(), change[..., 1].ravel())[0, 1]) < 0.02
    assert (noisy(grey, sigma, 3) == noisy(grey, sigma, 3)).all() and (
        noisy(grey, sigma, 4) != noisy(grey, sigma, 3)
    ).any()


def test_noise_stops_at_black_and_white() -> None:
    edges = np.array([[[0, 255, 128]]], dtype=np.uint8).repeat(4000, axis=0)
    made = noisy(edges, 30, 0)
    # Half of the noise on black and on white is cut off, none of it wraps round.
    assert 0.45 < (made[..., 0] == 0).mean() < 0.55 and 0.45 < (made[..., 1] == 255).mean() < 0.55
    assert made[..., 0].max() < 160 and made[..., 1].min() > 95


def test_jpeg_loses_more_at_lower_quality() -> None:
    image = smooth()
    lost = [np.abs(compressed(image, quality).astype(int) - image).mean() for quality in (95, 50, 20, 5)]
    assert lost == sorted(lost) and lost[0] < 3 < 6 < lost[-1]
    assert compressed(image, 5).shape == image.shape


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_only_the_image_changes(flat_scene: FlatScene, kind: str) -> None:
    source = Listed([flat_scene(k) for k in range(3)])
    before = [scene.image.copy() for scene in source.scenes]
    worse = Corrupted(source, kind, 8, seed=5)
    assert isinstance(worse, Scenes) and len(worse) == 3
    for index in range(3):
        made, scene = worse[index], source[index]
        assert made.names == worse.names(index) == scene.names and (made.labels == scene.labels).all()
        assert made.image.shape == scene.image.shape and (made.image != scene.image).any()
        assert (scene.image == before[index]).all() and (worse[index].image == made.image).all()


def test_each_image_has_noise_of_its_own_and_the_fingerprint_follows_the_recipe(flat_scene: FlatScene) -> None:
    source = Listed([flat_scene(0), flat_scene(0)])
    worse = Corrupted(source, "noise", 20, seed=1)
    assert (worse[0].image != worse[1].image).any()
    others = [
        Corrupted(source, *how, seed=seed) for how, seed in ((("noise", 10), 1), (("noise", 20), 2), (("blur", 20), 1))
    ]
    assert len({worse.fingerprint, *(other.fingerprint for other in others)}) == 4
    with pytest.raises(FusionerError, match=r"corruption = 'fog': expected one of 'blur', 'noise', 'JPEG'"):
        Corrupted(source, "fog", 1)


def test_a_border_has_the_mean_colour_and_no_label() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[:, :3] = (200, 100, 11)
    labels = np.full((4, 6), 1, dtype=np.uint8)
    labels[0, 0] = 255
    made = Bordered(Listed([Scene(image=image, labels=labels, names=("a",), key="k")]), size=9)[0]
    # Rows 2 to 5 of 9 (two above, three below), columns 1 to 6 (one, two).
    assert (made.image[2:6, 1:7] == image).all() and (made.labels[2:6, 1:7] == labels).all()
    outside = np.ones((9, 9), dtype=bool)
    outside[2:6, 1:7] = False
    assert (made.image[outside] == (100, 50, 6)).all() and (made.labels[outside] == 0).all()


def test_what_is_too_large_for_its_border_is_refused(flat_scene: FlatScene) -> None:
    with pytest.raises(FusionerError, match=r"120x90 pixels, larger than 100x100"):
        Bordered(Listed([flat_scene(0)]), size=100)[0]
