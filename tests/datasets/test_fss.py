"""The FSS-1000 layout: masks as they lie on disk, and errors that name the file and what to do."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes; images 1, 2 and 10 of the first, one of the second; masks of every grey."""
    for folder, numbers in {"blue_bicycle": (1, 2, 10), "owl": (1,)}.items():
        (tmp_path / folder).mkdir()
        for number in numbers:
            grey = np.arange(256, dtype=np.uint8).reshape(8, 32) + np.uint8(number)
            Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(tmp_path / folder / f"{number}.jpg")
            Image.fromarray(grey).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def test_drawn_masks_equal_a_direct_read(drawn: Path) -> None:
    scenes = FSSFolder(drawn)
    assert isinstance(scenes, Scenes)
    assert len(scenes) == len(list(drawn.rglob("*.jpg")))
    for index in range(0, len(scenes), 29):
        scene = scenes[index]
        direct = np.array(Image.open(drawn / f"{scene.key}.png"))
        assert (scene.mask(scene.names[0]) == (direct == 255)).all()
        assert (scene.image == np.array(Image.open(drawn / f"{scene.key}.jpg").convert("RGB"))).all()
        assert scene.names == scenes.names(index) == (scene.key.split("/")[0].replace("_", " "),)


def test_order_names_and_threshold(photos: Path) -> None:
    scenes = FSSFolder(photos)
    assert [scenes[i].key for i in range(4)] == ["blue_bicycle/1", "blue_bicycle/2", "blue_bicycle/10", "owl/1"]
    assert scenes.names(0) == ("blue bicycle",)
    grey = np.array(Image.open(photos / "owl" / "1.png"))
    assert (scenes[3].labels == np.where(grey > 127, 1, 0)).all()


def test_classes_and_numbers_choose(photos: Path) -> None:
    assert [scene.key for scene in map(FSSFolder(photos, classes=["owl"]).__getitem__, range(1))] == ["owl/1"]
    chosen = FSSFolder(photos, numbers={"owl": [1], "blue_bicycle": [10, 1]})
    assert [chosen[i].key for i in range(3)] == ["blue_bicycle/10", "blue_bicycle/1", "owl/1"]


def test_pixels_can_be_written_so_that_torch_does_not_warn(photos: Path) -> None:
    scene = FSSFolder(photos)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(scene.image), torch.from_numpy(scene.labels)


def test_fingerprint_follows_the_choice_and_the_files(photos: Path) -> None:
    whole, part = FSSFolder(photos), FSSFolder(photos, classes=["owl"])
    assert whole.fingerprint == FSSFolder(photos).fingerprint != part.fingerprint
    shutil.copy(photos / "owl" / "1.jpg", photos / "owl" / "2.jpg")
    assert FSSFolder(photos).fingerprint != whole.fingerprint


@pytest.mark.parametrize("kept", [0, 20, 300])
def test_a_broken_image_names_its_file(photos: Path, kept: int) -> None:
    file = photos / "owl" / "1.jpg"
    scenes = FSSFolder(photos, classes=["owl"])
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(FusionerError, match=r"owl.1\.jpg can't be read.*copy it again"):
        scenes[0]


def test_a_broken_mask_names_its_file(photos: Path) -> None:
    file = photos / "owl" / "1.png"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(FusionerError, match=r"owl.1\.png can't be read.*copy it again"):
        FSSFolder(photos, classes=["owl"])[0]


def test_a_mask_of_another_size_gives_both_sizes(photos: Path) -> None:
    Image.new("L", (5, 7)).save(photos / "owl" / "1.png")
    with pytest.raises(FusionerError, match=r"1\.png is \(5, 7\).*\(32, 8\).*export the mask again"):
        FSSFolder(photos, classes=["owl"])[0]


def test_missing_files_and_classes_say_what_to_do(photos: Path) -> None:
    (photos / "owl" / "1.png").unlink()
    with pytest.raises(FusionerError, match=r"owl.1\.png is missing: copy"):
        FSSFolder(photos, classes=["owl"])[0]
    with pytest.raises(FusionerError, match=r"owl.7\.jpg is missing: copy"):
        FSSFolder(photos, numbers={"owl": [7]})
    with pytest.raises(FusionerError, match=r"lynx holds no <n>\.jpg"):
        FSSFolder(photos, classes=["lynx"])
    with pytest.raises(FusionerError, match=r"expected <class>/<n>\.jpg"):
        FSSFolder(photos / "nowhere")


def test_a_mask_published_larger_than_its_image_is_brought_to_its_size(tmp_path: Path) -> None:
    for folder in ("ruler", "other"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 10)).save(tmp_path / folder / "10.jpg")
        Image.fromarray(np.repeat(np.uint8([[255, 0]]), 20, 1).repeat(20, 0)).save(tmp_path / folder / "10.png")
    scene = FSSFolder(tmp_path, classes=["ruler"])[0]
    assert scene.labels.shape == (10, 20) and scene.labels[:, :10].all() and not scene.labels[:, 10:].any()
    with pytest.raises(FusionerError, match="export the mask again"):
        FSSFolder(tmp_path, classes=["other"])[0]
