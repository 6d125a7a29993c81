"""The paper's augmentation beside a literal chain of torchvision's v2 transforms, and what a view depends on."""

import warnings
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from fusionerlib.datasets.augment import PRESETS, Augmentation, Change, changed, drawn, view
from fusionerlib.datasets.scene import Scene

COLOURS = np.array([[0, 0, 0], [200, 60, 60], [60, 200, 60], [60, 60, 200]], dtype=np.uint8)
"""The colour of each label; that of background is what a border is filled with."""


def blocks(height: int = 96, width: int = 96) -> Scene:
    """Three unequal blocks on black: colours encode labels, and no two views of them are the same by symmetry."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[height // 8 : height // 2, width // 3 :] = 1
    labels[height // 2 :, : width // 4] = 2
    labels[height // 2 : -height // 8, 2 * width // 3 : -3] = 3
    return Scene(image=COLOURS[labels], labels=labels, names=("a", "b", "c"), key="blocks")


def smooth(size: int = 64) -> Scene:
    """A smooth picture without very dark or light pixels, so that no step of a chain cuts anything off."""
    y, x = np.mgrid[:size, :size] / size
    planes = [90 + 60 * np.sin(3 * x + y), 120 + 30 * np.cos(4 * y), 110 + 50 * x * y]
    image = np.stack(planes, axis=-1).astype(np.uint8)
    return Scene(image=image, labels=np.zeros((size, size), dtype=np.uint8), names=(), key="smooth")


def tensors(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(scene.image.copy()).permute(2, 0, 1), torch.from_numpy(scene.labels.copy())[None]


def difference(scene: Scene, image: torch.Tensor) -> np.ndarray:
    return np.abs(scene.image.astype(int) - image.permute(1, 2, 0).numpy().astype(int))


def inner(labels: np.ndarray, label: int) -> np.ndarray:
    """The pixels of ``label`` at least two pixels away from any other and from the border."""
    mask = np.pad(labels == label, 2)
    near = [np.roll(mask, (down, right), (0, 1)) for down in range(-2, 3) for right in range(-2, 3)]
    return np.logical_and.reduce(near)[2:-2, 2:-2]


def test_no_change_is_the_scene_itself() -> None:
    scene = blocks()
    same = changed(scene, Change((0, 0, 96, 96)), size=96)
    assert np.array_equal(same.image, scene.image) and np.array_equal(same.labels, scene.labels)
    assert (same.names, same.key) == (scene.names, scene.key)


def test_a_crop_and_a_flip_are_those_of_v2() -> None:
    scene = blocks(90, 120)
    image, _ = tensors(scene)
    expected = v2.functional.resized_crop(image, 10, 20, 70, 90, [48, 48], antialias=True)
    labels = Image.fromarray(scene.labels[10:80, 20:110]).resize((48, 48), Image.Resampling.NEAREST)
    cropped = changed(scene, Change((10, 20, 70, 90)), size=48)
    assert difference(cropped, expected).max() <= 1 and np.array_equal(cropped.labels, np.asarray(labels))
    flipped = changed(scene, Change((10, 20, 70, 90), flip=True), size=48)
    assert difference(flipped, v2.functional.horizontal_flip(expected)).max() <= 1
    assert np.array_equal(flipped.labels, np.asarray(labels)[:, ::-1])


@pytest.mark.parametrize(
    ("angle", "scale", "shift", "flip"),
    [(20.0, 1.0, (0.0, 0.0), False), (0.0, 1.1, (0.0, 0.0), True), (-12.0, 0.9, (0.125, -0.0625), True)],
)
def test_shift_scale_and_rotation_are_those_of_v2(angle, scale, shift, flip) -> None:
    scene = blocks()
    image, labels = tensors(scene)
    if flip:
        image, labels = v2.functional.horizontal_flip(image), v2.functional.horizontal_flip(labels)
    how = {"angle": angle, "translate": [shift[0] * 96, shift[1] * 96], "scale": scale, "shear": [0.0, 0.0]}
    bilinear = v2.InterpolationMode.BILINEAR
    expected = v2.functional.affine(image, interpolation=bilinear, **how)
    moved = changed(scene, Change((0, 0, 96, 96), angle=angle, scale=scale, shift=shift, flip=flip), size=96)
    assert np.mean(difference(moved, expected) > 2) < 0.01
    assert np.mean(moved.labels != v2.functional.affine(labels, **how)[0].numpy()) < 0.01


def test_a_quarter_turn_and_a_whole_shift_are_exact() -> None:
    scene = blocks()
    turned = changed(scene, Change((0, 0, 96, 96), angle=90.0), size=96)
    assert np.array_equal(turned.labels, np.rot90(scene.labels, -1))
    assert np.abs(turned.image.astype(int) - np.rot90(scene.image, -1)).max() <= 1
    right = changed(scene, Change((0, 0, 96, 96), shift=(0.125, 0.0)), size=96)
    assert np.array_equal(right.labels[:, 12:], scene.labels[:, :-12])
    assert not right.labels[:, :12].any() and not right.image[:, :11].any()


@pytest.mark.parametrize("order", list(permutations(("brightness", "contrast", "saturation"))))
def test_jitter_is_v2_s_in_any_order(order) -> None:
    scene = smooth()
    factors = {"brightness": 1.15, "contrast": 0.7, "saturation": 1.3}
    image, _ = tensors(scene)
    for kind in order:
        image = getattr(v2.functional, f"adjust_{kind}")(image, factors[kind])
    jittered = changed(scene, Change((0, 0, 64, 64), jitter=tuple((kind, factors[kind]) for kind in order)), size=64)
    # v2 cuts to whole levels after each of the three steps.
    assert difference(jittered, image).max() <= 3
    assert np.abs(jittered.image.astype(int) - scene.image).max() > 10


def test_noise_has_its_deviation_and_no_pattern() -> None:
    grey = Scene(image=np.full((64, 64, 3), 128, np.uint8), labels=np.ones((64, 64), np.uint8), names=("a",), key="")
    made = [changed(grey, Change((0, 0, 64, 64), noise=0.1, noise_start=start), size=64) for start in (0.2, 0.9)]
    one, other = (scene.image.astype(float) - 128 for scene in made)
    assert one.std() == pytest.approx(25.5, rel=0.03) and abs(one.mean()) < 1
    for left, right in ((one, other), (one[:, :-1], one[:, 1:]), (one[..., 0], one[..., 1])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05
    assert all(np.array_equal(scene.labels, grey.labels) for scene in made)


def test_elastic_displaces_smoothly_by_its_deviation_in_the_mean() -> None:
    """On a slope a pixel's level tells where it came from."""
    size = 112
    slope = np.repeat(np.broadcast_to(np.arange(size, dtype=np.uint8) * 2, (size, size))[..., None], 3, axis=2)
    scene = Scene(image=slope, labels=np.zeros((size, size), np.uint8), names=(), key="")
    found, steps = [], []
    for seed in range(12):
        knots = np.random.default_rng(seed).standard_normal((2, 13, 13), dtype=np.float32) * 0.01
        moved = changed(scene, Change((0, 0, size, size), knots=knots), size=size).image[8:-8, 8:-8, 0] / 2
        displaced = moved - np.arange(size)[8:-8]
        found.append(displaced)
        steps.append(np.abs(np.diff(displaced, axis=0)).max())
    assert np.std(found) == pytest.approx(0.01 * size, rel=0.15)
    assert max(steps) <= 1.0


@pytest.mark.filterwarnings("error")
def test_labels_stay_with_the_image_in_every_view() -> None:
    """Inside each label its own colour is found, whatever was cropped, flipped, bent, shifted, scaled and turned."""
    scene = blocks(90, 130)
    scene.image.setflags(write=False)
    plain = Augmentation(jitter=0.0, rotation=20.0, noise=0.0, several=1.0)
    compared, warped = 0, 0
    for index in range(60):
        shown = view(scene, augmentation=plain, size=64, seed=1, epoch=0, index=index)
        assert shown.image.shape == (64, 64, 3) and set(np.unique(shown.labels)) <= {0, 1, 2, 3}
        for label in range(4):
            found = shown.image[inner(shown.labels, label)].astype(int)
            assert np.abs(found - COLOURS[label]).max(initial=0) <= 6, (index, label)
            compared += len(found) > 20
        change = drawn(plain, height=90, width=130, rng=np.random.default_rng((1, 0, index)))
        warped += change.warps
    assert compared > 150 and 30 <= warped <= 58


def test_a_view_depends_on_seed_epoch_and_index_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 900, 3), dtype=np.uint8)
    scene = Scene(image=noise, labels=noise[..., 0] % 4, names=("a", "b", "c"), key="")

    def pixels(seed: int, epoch: int, index: int) -> bytes:
        shown = view(scene, augmentation=PRESETS["pascal"], size=32, seed=seed, epoch=epoch, index=index)
        return shown.image.tobytes() + shown.labels.tobytes()

    keys = [(seed, epoch, index) for seed in range(2) for epoch in range(3) for index in range(4)]
    first = {key: pixels(*key) for key in keys}
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    assert all(pixels(*key) == first[key] for key in reversed(keys))
    assert torch.equal(torch.random.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    assert len(set(first.values())) == len(keys)


@pytest.mark.parametrize(("preset", "jitter", "rotation"), [("pascal", 0.5, 20.0), ("coco", 0.2, 10.0)])
def test_draws_keep_to_the_paper_s_limits_and_rates(preset, jitter, rotation) -> None:
    rng, count = np.random.default_rng(0), 4000
    changes = [drawn(PRESETS[preset], height=300, width=400, rng=rng) for _ in range(count)]
    rates = Counter[str]()
    for change in changes:
        top, left, height, width = change.box
        assert 0 <= top <= 300 - height and 0 <= left <= 400 - width
        rates["square"] += (height, width) == (300, 300)
        if (height, width) != (300, 300):
            assert 0.49 <= height * width / (300 * 400) <= 1.0 and 0.74 <= width / height <= 1.35
        moved = change.angle != 0.0
        named = {"jitter": change.jitter, "noise": change.noise, "flip": change.flip, "moved": moved}
        rates.update(name for name, happened in {**named, "elastic": change.knots is not None}.items() if happened)
        rates["nothing"] += change == Change(change.box)
    assert rates["square"] / count == pytest.approx(0.5, abs=0.03)
    for name in ("jitter", "noise", "flip", "moved", "elastic"):
        assert rates[name] / count == pytest.approx(0.25, abs=0.03), name
    assert rates["nothing"] / count == pytest.approx(0.5 + 0.5**6, abs=0.03)
    factors = [factor for change in changes for _, factor in change.jitter]
    assert 1 - jitter <= min(factors) < 1 - 0.97 * jitter and 1 + 0.97 * jitter < max(factors) <= 1 + jitter
    for values, limit in (([c.angle for c in changes], rotation), ([c.shift[1] for c in changes], 0.1)):
        assert 0.97 * limit < max(values) <= limit and -limit <= min(values) < -0.97 * limit
    scales = [change.scale for change in changes]
    assert 0.9 <= min(scales) < 0.905 and 1.095 < max(scales) <= 1.1


def test_a_strip_of_an_image_gives_a_view_and_the_scene_is_not_written_to() -> None:
    scene, kept = blocks(12, 200), blocks(12, 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(20):
            shown = view(scene, augmentation=PRESETS["coco"], size=32, seed=0, epoch=0, index=index)
            assert shown.labels.shape == (32, 32)
    assert np.array_equal(scene.image, kept.image) and np.array_equal(scene.labels, kept.labels)
