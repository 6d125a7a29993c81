"""Augmented views: what changes by how much and how often, that labels follow pixels, and what decides a view."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision import tv_tensors

from fusionerlib.datasets.augment import PRESETS, STORED, Augmentation, view
from fusionerlib.datasets.augment_transforms import Elastic, Noise, chain
from fusionerlib.datasets.scene import Scene

COLOURS = np.array([[0, 0, 0], [200, 60, 60], [60, 200, 60], [60, 60, 200]], dtype=np.uint8)
"""The colour of each label; that of background is what a border is filled with."""
STILL = Augmentation(jitter=0.0, hue=0.0, rotation=0.0, crop=0.0, noise=None, elastic=None, shift=0.0, scale=0.0)
"""Of a square image: nothing but the flip."""


def blocks(height: int = 96, width: int = 96) -> Scene:
    """Three unequal blocks on black: colours encode labels, and no two views of them are the same by symmetry."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[height // 8 : height // 2, width // 3 :] = 1
    labels[height // 2 :, : width // 4] = 2
    labels[height // 2 : -height // 8, 2 * width // 3 : -3] = 3
    return Scene(image=COLOURS[labels], labels=labels, names=("a", "b", "c"), key="blocks")


def flat(level: int = 128, size: int = 64, label: int = 1) -> Scene:
    """One level everywhere, and one label."""
    image, labels = np.full((size, size, 3), level, np.uint8), np.full((size, size), label, np.uint8)
    return Scene(image=image, labels=labels, names=("a",), key="flat")


def found_with(scene: Scene, *, count: int, size: int, **settings) -> list[Scene]:
    """Views of ``scene`` with ``STILL`` changed by ``settings``, everything that they allow happening in each."""
    own = Augmentation(**{**vars(STILL), "several": 1.0, "each": 1.0, **settings})
    return [view(scene, augmentation=own, size=size, seed=(index,)) for index in range(count)]


def inner(labels: np.ndarray, label: int) -> np.ndarray:
    """The pixels of ``label`` at least three pixels away from any other and from the border."""
    mask = np.pad(labels == label, 3)
    near = [np.roll(mask, (down, right), (0, 1)) for down in range(-3, 4) for right in range(-3, 4)]
    return np.logical_and.reduce(near)[3:-3, 3:-3]


def test_without_any_change_a_view_is_the_scene_itself() -> None:
    scene = blocks()
    same = view(scene, augmentation=Augmentation(**{**vars(STILL), "several": 0.0}), size=96, seed=(0,))
    assert np.array_equal(same.image, scene.image) and np.array_equal(same.labels, scene.labels)
    assert (same.names, same.key) == (scene.names, scene.key)
    (mirrored,) = found_with(scene, count=1, size=96)
    assert np.array_equal(mirrored.image, scene.image[:, ::-1]) and np.array_equal(
        mirrored.labels, scene.labels[:, ::-1]
    )


@pytest.mark.parametrize(("preset", "most"), [("pascal", 0.5), ("coco", 0.2)])
def test_jitter_multiplies_brightness_contrast_and_saturation_and_turns_the_hue(preset, most) -> None:
    """Of a grey image brightness alone is seen; the mean grey stays under contrast and saturation."""
    own = PRESETS[preset]
    assert own.jitter == own.hue == most
    views = found_with(flat(160), count=400, size=8, jitter=own.jitter)
    # Each of the three steps cuts off the fraction of a level.
    factors = (np.array([made.image[0, 0, 0] for made in views]) + 1.0) / 160
    assert stats.kstest(factors, stats.uniform(1 - most, 2 * most).cdf).pvalue > 0.01
    assert 1 - most - 0.02 <= factors.min() < 1 - 0.9 * most and 1 + 0.9 * most < factors.max() <= 1 + most + 0.02
    red = Scene(image=np.tile(np.uint8([200, 0, 0]), (8, 8, 1)), labels=np.zeros((8, 8), np.uint8), names=(), key="")
    turned = [made.image[0, 0] for made in found_with(red, count=400, size=8, hue=own.hue)]
    angles = np.array([hue_of(pixel) for pixel in turned])
    assert stats.kstest(angles, stats.uniform(-most, 2 * most).cdf).pvalue > 0.01 and np.abs(angles).max() > 0.9 * most


def hue_of(pixel: np.ndarray) -> float:
    """The share of a circle, -0.5 to 0.5, by which a saturated colour is turned from red."""
    red, green, blue = (float(level) for level in pixel)
    top, low = max(pixel), min(pixel)
    span = float(top) - float(low)
    if top == pixel[0]:
        return (green - blue) / span / 6
    turned = (2 + (blue - red) / span) / 6 if top == pixel[1] else (4 + (red - green) / span) / 6
    return turned if turned <= 0.5 else turned - 1


def test_noise_has_a_variance_of_10_to_50_levels_and_no_pattern() -> None:
    views = found_with(flat(128), count=120, size=64, noise=(10.0, 50.0))
    noise = [made.image.astype(float) - 128 for made in views]
    variances = np.array([one.var() for one in noise]) - 1 / 12  # that of rounding to whole levels
    assert stats.kstest(variances, stats.uniform(10, 40).cdf).pvalue > 0.01
    assert all(abs(one.mean()) < 0.3 for one in noise)
    one, other = noise[:2]
    for left, right in ((one, other), (one[:, :-1], one[:, 1:]), (one[..., 0], one[..., 1])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05
    assert all((made.labels == 1).all() for made in views)


def test_noise_leaves_labels_and_keeps_to_levels() -> None:
    torch.manual_seed(0)
    white = tv_tensors.Image(torch.full((3, 16, 16), 255, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.ones(16, 16, dtype=torch.uint8))
    image, labels = Noise((50.0, 50.0))(white, mask)
    assert image.dtype == torch.uint8 and image.min() > 200 and torch.equal(labels, mask)


def gradients(size: int) -> tv_tensors.Image:
    """Where a pixel was: x and y in the first two channels, in pixels; one in the third where it was inside."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    return tv_tensors.Image(torch.stack([x, y, torch.ones_like(x)]))


def test_the_elastic_change_moves_three_corners_by_up_to_20_pixels_and_bends_by_thousandths() -> None:
    """The affine map fitted to where pixels came from tells where the corners went; what it leaves is the bending."""
    torch.manual_seed(1)
    size, moved, left = 224, [], []
    third = np.array([[1, 1], [1, -1], [-1, -1]]) * size / 3 + size / 2
    for _ in range(60):
        found = Elastic(1.0, 50.0, 20.0)(gradients(size)).numpy()
        inside = found[2] > 0.999
        y, x = np.nonzero(inside)
        now = np.stack([x + 0.5, y + 0.5, np.ones(len(x))], axis=1)
        before = found[:2, inside].T
        back, *_ = np.linalg.lstsq(now, before, rcond=None)
        left.append((now @ back - before).std())
        full = np.column_stack([back, [0, 0, 1]])
        moved.append((np.column_stack([third, np.ones(3)]) @ np.linalg.inv(full))[:, :2] - third)
    offsets = np.ravel(moved)
    assert np.abs(offsets).max() < 20.1
    assert stats.kstest(offsets, stats.uniform(-20, 40).cdf).pvalue > 0.01
    # Uniform noise of variance 1/3, smoothed by a Gaussian: deviation 3 ** -0.5 / (2 * pi ** 0.5 * 50), more at edges.
    assert 0.001 < np.mean(left) < 0.006


def test_shift_scale_and_rotation_keep_to_the_paper_s_limits() -> None:
    torch.manual_seed(2)
    size, angles, scales, shifts = 64, [], [], []
    for preset, most in (("pascal", 20.0), ("coco", 10.0)):
        own = PRESETS[preset]
        assert (own.rotation, own.shift, own.scale) == (most, 0.1, 0.1)
    change = Augmentation(**{**vars(STILL), "several": 1.0, "each": 1.0, "rotation": 20.0, "shift": 0.1, "scale": 0.1})
    for _ in range(300):
        found = chain(change, size)(gradients(size)).numpy()[:, :, ::-1]  # the flip undone
        inside = found[2] > 0.999
        y, x = np.nonzero(inside)
        now = np.stack([x + 0.5 - size / 2, y + 0.5 - size / 2, np.ones(len(x))], axis=1)
        back, *_ = np.linalg.lstsq(now, np.where([True, True], found[:2, inside].T - size / 2, 0), rcond=None)
        forth = np.linalg.inv(np.column_stack([back, [0, 0, 1]]))
        scales.append(np.sqrt(np.linalg.det(forth[:2, :2])))
        angles.append(np.degrees(np.arctan2(forth[0, 1], forth[0, 0])))
        shifts.append(forth[2, 1] / size)
    for values, middle, most in ((angles, 0.0, 20.0), (scales, 1.0, 0.1)):
        assert stats.kstest(values, stats.uniform(middle - most, 2 * most).cdf).pvalue > 0.01
        assert np.abs(np.array(values) - middle).max() <= most * 1.01
    # Shifts are whole pixels: of 64, six at most.
    assert 0.085 < np.abs(shifts).max() < 0.1 + 1e-3


@pytest.mark.filterwarnings("error")
def test_labels_stay_with_the_image_in_every_view() -> None:
    """Inside each label its own colour is found, whatever was cropped, flipped, bent, shifted, scaled and turned."""
    scene = blocks(90, 130)
    scene.image.setflags(write=False)
    plain = Augmentation(jitter=0.0, hue=0.0, rotation=20.0, noise=None, several=1.0)
    compared = 0
    for index in range(60):
        shown = view(scene, augmentation=plain, size=64, seed=(1, 0, index))
        assert shown.image.shape == (64, 64, 3) and set(np.unique(shown.labels)) <= {0, 1, 2, 3}
        for label in range(4):
            found = shown.image[inner(shown.labels, label)].astype(int)
            assert np.abs(found - COLOURS[label]).max(initial=0) <= 8, (index, label)
            compared += len(found) > 20
    assert compared > 150


def test_what_comes_from_outside_is_black_and_background() -> None:
    shifted = found_with(flat(255), count=20, size=64, shift=0.1, elastic=(1.0, 50.0, 20.0))
    empty = [made.labels == 0 for made in shifted]
    assert sum(mask.any() for mask in empty) > 15
    for made, mask in zip(shifted, empty, strict=True):
        assert set(np.unique(made.labels)) <= {0, 1}
        assert made.image[inner(made.labels, 0)].max(initial=0) == 0
        assert made.image[inner(made.labels, 1)].min(initial=255) == 255
        assert not mask.all()


def test_half_of_the_views_change_and_each_change_comes_half_of_the_time_then() -> None:
    """On grey above white: jitter without hue or brightness shows nothing, so each is looked for on its own."""
    own, count, plain = PRESETS["pascal"], 500, {**vars(STILL), "crop": 0.0}
    happened = {}
    for name, changes, seen in (
        ("noise", {"noise": own.noise}, lambda made: made.image.std() > 0),
        ("jitter", {"jitter": own.jitter}, lambda made: made.image.mean() != 128),
        ("elastic", {"elastic": own.elastic}, lambda made: (made.labels == 0).any() or made.image.min() == 0),
        ("moved", {"shift": own.shift, "rotation": own.rotation}, lambda made: made.image.min() == 0),
    ):
        some = Augmentation(**{**plain, **changes})
        views = [view(flat(128, 32), augmentation=some, size=32, seed=(7, index)) for index in range(count)]
        happened[name] = np.mean([seen(made) for made in views])
    flips = [view(blocks(16, 16), augmentation=Augmentation(**plain), size=16, seed=(8, i)) for i in range(count)]
    happened["flip"] = np.mean([made.labels.tobytes() != blocks(16, 16).labels.tobytes() for made in flips])
    for name, rate in happened.items():
        assert rate == pytest.approx(0.25, abs=0.058), name
    several = Augmentation(**{**vars(own), "crop": 0.0})
    whole = [view(blocks(24, 24), augmentation=several, size=24, seed=(9, index)) for index in range(count)]
    same = np.mean([made.image.tobytes() == blocks(24, 24).image.tobytes() for made in whole])
    assert same == pytest.approx(0.5 + 0.5**6, abs=0.067)


def test_half_of_the_crops_are_squares_of_the_shorter_side_and_half_of_half_to_all_of_the_area() -> None:
    """Levels that rise by a pixel tell where a crop begins and ends."""
    height, width, size = 120, 160, 32
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    scene = Scene(image=image, labels=np.zeros((height, width), np.uint8), names=(), key="")
    own = Augmentation(**{**vars(PRESETS["pascal"]), "several": 0.0})
    boxes = []
    for index in range(600):
        made = view(scene, augmentation=own, size=size, seed=(3, index)).image.astype(float)
        boxes.append([(made[2:-2, -3, 0] - made[2:-2, 2, 0]).mean(), (made[-3, :, 1] - made[2, :, 1]).mean()])
    wide, tall = np.array(boxes).T * size / (size - 5)
    square = (np.abs(wide - height) < 3) & (np.abs(tall - height) < 3)
    assert square.mean() == pytest.approx(0.5, abs=0.07)
    area, ratio = (wide * tall / (height * width))[~square], (wide / tall)[~square]
    assert 0.47 < area.min() < 0.55 and 0.9 < area.max() < 1.06 and 0.7 < ratio.min() < ratio.max() < 1.42


def test_stored_views_are_cropped_flipped_and_jittered_without_hue() -> None:
    assert (STORED.crop, STORED.several, STORED.hue, STORED.noise, STORED.elastic) == (1.0, 1.0, 0.0, None, None)
    grey = [view(flat(100, 16), augmentation=STORED, size=16, seed=(index,)) for index in range(200)]
    assert all((made.labels == 1).all() and made.image.std() == 0 for made in grey)
    assert np.mean([made.image[0, 0, 0] != 100 for made in grey]) == pytest.approx(0.5, abs=0.1)


def test_a_view_depends_on_its_seed_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    scene = Scene(image=noise, labels=noise[..., 0] % 4, names=("a", "b", "c"), key="")

    def pixels(*seed: int) -> bytes:
        shown = view(scene, augmentation=PRESETS["pascal"], size=32, seed=seed)
        return shown.image.tobytes() + shown.labels.tobytes()

    keys = [(seed, epoch, index) for seed in range(2) for epoch in range(3) for index in range(4)]
    first = {key: pixels(*key) for key in keys}
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    assert all(pixels(*key) == first[key] for key in reversed(keys))
    assert torch.equal(torch.random.get_rng_state(), before) and (np.random.get_state()[1] == numpy_before).all()
    assert len(set(first.values())) >= len(keys) - 2  # two square crops may be one


def test_a_view_does_not_depend_on_the_number_of_threads() -> None:
    """Contrast mixes with a mean, whose last bits do: it shows where a level lies at the edge of two."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    scene = Scene(image=noise, labels=noise[..., 0] % 4, names=("a", "b", "c"), key="")
    before, made = torch.get_num_threads(), {}
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            views = [view(scene, augmentation=PRESETS["pascal"], size=224, seed=(index,)) for index in range(40)]
            made[threads] = [one.image.tobytes() for one in views]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert made[1] == made[4]


def test_a_strip_of_an_image_gives_a_view_and_the_scene_is_not_written_to() -> None:
    scene, kept = blocks(12, 200), blocks(12, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(20):
            shown = view(scene, augmentation=PRESETS["coco"], size=32, seed=(0, 0, index))
            assert shown.labels.shape == (32, 32)
    assert np.array_equal(scene.image, kept.image) and np.array_equal(scene.labels, kept.labels)
