"""FSS-1000's classes and the list of mosaics, against the README's digests and a made copy of the test classes."""

import gzip
import hashlib
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets import fss1000
from fusionerlib.errors import FusionerError
from tests.datasets.test_pascal import SPLITS

FOLDER = SPLITS / "fss1000"


def test_the_classes_are_520_240_and_240_and_never_shared() -> None:
    parts = [fss1000.classes(part) for part in ("train", "val", "test")]  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [520, 240, 240]
    assert len({name for part in parts for name in part}) == 1000
    # The publishers' own list of test classes begins and ends so.
    assert parts[2][:5] == ("bus", "hotel_slipper", "burj_al", "reflex_camera", "abe's_flyingfish")
    assert parts[2][-2:] == ("coin", "tower_pisa")


def test_the_packaged_files_are_those_of_the_readme() -> None:
    rows = re.findall(r"\| `(\S+)` \| (\d+) \| `([0-9a-f]{64})` \|", (FOLDER / "README.md").read_text())
    packed = {file.name.removesuffix(".gz"): file.read_bytes() for file in FOLDER.glob("*.txt*")}
    assert {name for name, _, _ in rows} == set(packed)
    for name, count, digest in rows:
        lines = gzip.decompress(packed[name]) if name.startswith("mosaic") else packed[name]
        assert (lines.count(b"\n"), hashlib.sha256(lines).hexdigest()) == (int(count), digest)


def test_drawing_again_gives_the_stored_mosaics() -> None:
    stored = fss1000.mosaic_tiles()
    assert fss1000.draw_mosaics() == stored
    assert len(stored) == 1000
    assert fss1000.draw_mosaics(seed=1)[:20] != stored[:20]
    for tiles in stored:
        assert len({name for name, _ in tiles}) == 4
    counts = Counter(tile for tiles in stored for tile in tiles)
    assert set(counts) == {(name, number) for name in fss1000.classes("test") for number in range(1, 11)}
    assert set(counts.values()) == {1, 2}


def test_larger_grids_can_be_drawn() -> None:
    (tiles,) = fss1000.draw_mosaics(count=1, grid=3)
    assert len({name for name, _ in tiles}) == 9


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test classes as in the publishers' archive; an image's colour says which class and number it is."""
    root = tmp_path_factory.mktemp("fss") / "fewshot_data/fewshot_data"
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [127, 128]], dtype=np.uint8)).save(buffer, "png")
    for place, name in enumerate(fss1000.classes("test")):
        (root / name).mkdir(parents=True)
        for number in range(1, 11):
            photo = io.BytesIO()
            # Lossless, whatever the name says: the colour has to come back as it is.
            Image.new("RGB", (2, 2), (place, number, 7)).save(photo, "png")
            (root / name / f"{number}.jpg").write_bytes(photo.getvalue())
            (root / name / f"{number}.png").write_bytes(buffer.getvalue())
    return root


@pytest.mark.parametrize("above", [0, 1, 2])
def test_scenes_are_the_parts_images_in_the_published_order(copy: Path, above: int) -> None:
    scenes = fss1000.split([copy, *copy.parents][above], "test")
    assert len(scenes) == 2400
    for index in (0, 9, 10, 1234, 2399):
        scene = scenes[index]
        assert scene.image[0, 0].tolist() == [index // 10, index % 10 + 1, 7]
        assert scene.names == (fss1000.classes("test")[index // 10].replace("_", " "),)
        assert scene.labels.tolist() == [[0, 1], [0, 1]]
    assert scenes.names(40) == ("abe's flyingfish",)


def test_a_mosaic_shows_the_tiles_that_the_list_names(copy: Path) -> None:
    scenes = fss1000.mosaics(copy, size=8)
    assert len(scenes) == 1000
    for index in (0, 500, 999):
        scene, tiles = scenes[index], fss1000.mosaic_tiles()[index]
        corners = [scene.image[row, column].tolist() for row in (1, 6) for column in (1, 6)]
        assert corners == [[fss1000.classes("test").index(name), number, 7] for name, number in tiles]
        assert scene.names == tuple(name.replace("_", " ") for name, _ in tiles)


def test_what_is_missing_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"none of the 520 class folders of 'train': looked for fountain, taxi"):
        fss1000.split(copy, "train")
    (tmp_path / "bus").mkdir()
    with pytest.raises(FusionerError, match=r"bus.1\.jpg is missing: copy the data set again"):
        fss1000.split(tmp_path, "test")
    with pytest.raises(FusionerError, match="part of FSS-1000 = 'dev': expected one of 'train', 'val', 'test'"):
        fss1000.classes.__wrapped__.__wrapped__("dev")


def test_a_copy_without_the_apostrophe_is_read_too(copy: Path, tmp_path: Path) -> None:
    for folder in copy.iterdir():
        (tmp_path / folder.name.replace("'", "")).symlink_to(folder)
    plain, published = fss1000.split(tmp_path, "test"), fss1000.split(copy, "test")
    assert len(plain) == len(published)
    assert (plain.names(40), published.names(40)) == (("abes flyingfish",), ("abe's flyingfish",))
    assert np.array_equal(plain[41].image, published[41].image)
