"""Crops: the largest part against a flood fill, the rules by hand-made label maps, and photographs where they are."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusionerlib.datasets.all_classes import all_classes_test
from fusionerlib.datasets.mosaics import Box, Crop, Crops, crop_box, largest_part, select_crops, squared
from fusionerlib.datasets.names import canonical
from fusionerlib.datasets.scene import Scene, Scenes
from tests.datasets.test_pascal import SHARED

pytest.importorskip("scipy", reason="cutting objects out needs the extra `data`")


def flood(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The connected parts of a mask, pixel by pixel; corners touch."""
    left, parts = {(int(r), int(c)) for r, c in np.argwhere(mask)}, []
    while left:
        queue, part = deque([left.pop()]), []
        while queue:
            row, column = queue.popleft()
            part.append((row, column))
            near = {(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        parts.append(part)
    return parts


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (9, 12)))
def test_the_largest_part_is_what_a_flood_fill_finds(mask: np.ndarray) -> None:
    parts, box = flood(mask), largest_part(mask)
    assert (box is None) == (not parts)
    if box is not None:
        most = max(map(len, parts))
        boxes = {
            (min(c for _, c in part), min(r for r, _ in part), max(c for _, c in part) + 1, max(r for r, _ in part) + 1)
            for part in parts
            if len(part) == most
        }
        assert tuple(box) in boxes


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_squared_box_is_as_square_as_the_image_allows(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    part = Box(left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    box = squared(part, margin=0.1, width=width, height=height)
    assert 0 <= box.left <= part.left < part.right <= box.right <= width
    assert 0 <= box.top <= part.top < part.bottom <= box.bottom <= height
    longer = max(part.right - part.left, part.bottom - part.top)
    side = longer + 2 * round(0.1 * longer)
    assert (box.right - box.left, box.bottom - box.top) == (min(side, width), min(side, height))


def labelled(*boxes: tuple[int, int, int, int, int], size: tuple[int, int] = (200, 300)) -> np.ndarray:
    """A label map with rectangles (label, left, top, right, bottom), later ones on top."""
    labels = np.zeros(size, dtype=np.uint8)
    for label, left, top, right, bottom in boxes:
        labels[top:bottom, left:right] = label
    return labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param(labelled((1, 100, 50, 180, 110)), Box(92, 32, 188, 128), id="a margin, and square"),
        pytest.param(labelled((1, 0, 0, 80, 80)), Box(0, 0, 96, 96), id="shifted at the border"),
        pytest.param(labelled((1, 10, 10, 20, 20), (1, 100, 50, 180, 130)), Box(92, 42, 188, 138), id="the larger"),
        pytest.param(labelled((1, 100, 50, 180, 110), (2, 182, 50, 190, 90)), Box(100, 40, 180, 120), id="no margin"),
        pytest.param(labelled((1, 100, 50, 180, 130), (2, 150, 60, 190, 90)), None, id="something else in it"),
        pytest.param(
            labelled((1, 100, 50, 180, 130), (2, 100, 50, 110, 55)), Box(92, 42, 188, 138), id="a trace of it"
        ),
        pytest.param(labelled((1, 100, 50, 150, 100)), None, id="too small"),
        pytest.param(labelled((1, 20, 50, 280, 110), size=(120, 300)), None, id="too long for a square"),
        pytest.param(labelled((1, 100, 50, 180, 60)), None, id="too little of it"),
        pytest.param(labelled((1, 0, 0, 300, 200)), None, id="nothing else to be seen"),
        pytest.param(labelled((255, 92, 22, 188, 138), (1, 100, 50, 180, 90)), None, id="too much ignored"),
        pytest.param(labelled((2, 100, 50, 180, 130)), None, id="not there"),
    ],
)
def test_what_makes_a_crop(labels: np.ndarray, expected: Box | None) -> None:
    assert crop_box(labels, 1) == expected


class Masks:
    """Two scenes; only their label maps may be read."""

    fingerprint = "masks"

    def __init__(self, *, images: bool) -> None:
        self.images = images

    def __len__(self) -> int:
        return 2

    def names(self, index: int) -> tuple[str, ...]:
        return ("sofa", "tv monitor") if index else ("dog",)

    def labels(self, index: int) -> np.ndarray:
        if index:
            return labelled(
                (1, 10, 50, 90, 130), (2, 150, 20, 240, 110), (255, 150, 110, 240, 112), (1, 238, 20, 240, 30)
            )
        return labelled((1, 10, 10, 20, 20))

    def __getitem__(self, index: int) -> Scene:
        assert self.images, "an image was opened"
        labels = self.labels(index)
        image = np.random.default_rng(index).integers(0, 255, (*labels.shape, 3), dtype=np.uint8)
        return Scene(image=image, labels=labels, names=self.names(index), key=f"s{index}")


def test_selecting_reads_masks_alone_and_crops_are_windows_of_their_scenes() -> None:
    selected = select_crops(Masks(images=False), spelling=canonical, quiet=True)
    assert [(crop.scene, crop.name, crop.spelling) for crop in selected] == [
        (1, "sofa", "couch"),
        (1, "tv monitor", "tv"),
    ]
    crops = Crops(Masks(images=True), selected)
    assert isinstance(crops, Scenes) and [crops.names(i) for i in range(2)] == [("couch",), ("tv",)]
    assert Crops(Masks(images=False), selected).names(1) == ("tv",)
    scene, box = Masks(images=True)[1], selected[1].box
    window = np.s_[box.top : box.bottom, box.left : box.right]
    cut, raw = crops[1], scene.labels[window]
    assert (cut.image == scene.image[window]).all() and cut.names == ("tv",)
    assert ((cut.labels == 1) == (raw == 2)).all() and ((cut.labels == 0) == (raw == 0)).all()
    # What belongs to another name, and what was ignored before, is ignored.
    assert (raw == 1).any() and (raw == 255).any() and (cut.labels[(raw == 1) | (raw == 255)] == 255).all()


def test_the_fingerprint_follows_the_crops() -> None:
    scenes = Masks(images=True)
    one, other = Crop(1, "sofa", "couch", Box(0, 0, 90, 90)), Crop(1, "sofa", "couch", Box(0, 0, 91, 91))
    assert Crops(scenes, [one]).fingerprint == Crops(scenes, [one]).fingerprint != Crops(scenes, [other]).fingerprint


@pytest.mark.skipif(
    not (SHARED / "voc-mini").is_dir(), reason="reduced copies of the data sets are not on this machine"
)
def test_crops_of_photographs_show_one_thing() -> None:
    from fusionerlib.datasets.transforms import Subset

    everything = all_classes_test("photos", SHARED / "voc-mini")
    scenes = Subset(everything, range(0, len(everything), 12))
    selected = select_crops(scenes, quiet=True)
    assert selected == select_crops(scenes, quiet=True) and len(selected) > 10
    crops = Crops(scenes, selected)
    for index in range(len(crops)):
        cut = crops[index]
        height, width = cut.labels.shape
        assert min(height, width) >= 64 and min(height, width) * 3 >= 2 * max(height, width)
        assert set(np.unique(cut.labels)) <= {0, 1, 255} and 0.15 <= (cut.labels == 1).mean() <= 0.9
        assert cut.names == crops.names(index)
