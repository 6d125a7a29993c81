"""What mosaics are made of: crops split by training, the harder kinds, and why some are left out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.config import DataConfig
from fusionerlib.datasets.coco import NAMES as COCO_NAMES
from fusionerlib.datasets.mosaic_sets import (
    absent_names,
    first_mosaics,
    mosaic_kinds,
    mosaic_sets,
    plain_mosaics,
    tile_sets,
)
from fusionerlib.datasets.names import supercategory
from fusionerlib.datasets.openmoji import drawing
from fusionerlib.datasets.openmoji.glyphs import things
from fusionerlib.datasets.pascal import NAMES as VOC_NAMES
from fusionerlib.datasets.scene import vocabulary
from fusionerlib.errors import FusionerError

from .conftest import SETTINGS

NAMES = ("cat", "dog", "sofa", "horse", "sheep", "zebra", "bear", "cow", "car", "bus")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: two photos of each name with one thing each, all of them for validation, one beside them."""
    pytest.importorskip("scipy", reason="cutting objects out needs the extra `data`")
    root = tmp_path_factory.mktemp("photos")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(21):
        mask = np.zeros((110, 120), dtype=np.uint8)
        mask[20:90, 20:100] = number % 10 + 1
        image = np.random.default_rng(number).integers(0, 255, (110, 120, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02d}.png")
    (root / "names.txt").write_text("\n".join(NAMES))
    (root / "train.txt").write_text("20")
    return root


@pytest.fixture
def config(photos: Path) -> DataConfig:
    return DataConfig(dataset="folder", root=photos, size=64)


def test_crops_are_split_by_what_training_had_under_any_name(config: DataConfig) -> None:
    trained = ["couch", "dog", "horse", "cow", "tree"]
    tiles = tile_sets(config, trained=trained, quiet=True)
    assert list(tiles.splits) == ["seen", "unseen"] and tiles.main == "unseen" and tiles.left_out == {}
    assert vocabulary(tiles.splits["seen"]) == ["cow", "dog", "horse", "sofa"]
    assert vocabulary(tiles.splits["unseen"]) == ["bear", "bus", "car", "cat", "sheep", "zebra"]
    assert [len(part) for part in tiles.splits.values()] == [8, 12]
    mosaics = plain_mosaics(tiles, count=5, seed=3)
    assert {name: len(made) for name, made in mosaics.items()} == {"seen": 3, "unseen": 5}
    for name, made in mosaics.items():
        assert made[0].image.shape == (64, 64, 3) and made[0].names == made.names(0)
        assert set(made.names(1)) <= set(vocabulary(tiles.splits[name])) and len(set(made.names(1))) == 4
    again = mosaic_sets(config, count=5, seed=3, trained=trained)
    assert [made.fingerprint for made in again.values()] == [made.fingerprint for made in mosaics.values()]


def test_a_split_with_too_few_names_is_left_out_with_its_reason(config: DataConfig, photos: Path) -> None:
    tiles = tile_sets(config, trained=["cat", "dog"], quiet=True)
    assert list(tiles.splits) == ["unseen"]
    assert tiles.left_out == {"seen": "2 names (cat, dog), a mosaic needs 4"}
    Path(photos / "val.txt").write_text("00\n01\n02")
    try:
        with pytest.raises(FusionerError, match=r"too few one-object scenes.*unseen: 3 names \(cat, dog, sofa\)"):
            tile_sets(config, quiet=True)
    finally:
        Path(photos / "val.txt").unlink()


def test_names_are_spelt_as_the_run_spells_them(photos: Path) -> None:
    def names(dataset: str) -> set[str]:
        config = DataConfig(dataset=dataset, root=Path("nowhere"))  # type: ignore[arg-type]
        tiles = tile_sets(config, source="folder", root=str(photos), quiet=True)
        return {name for part in tiles.splits.values() for name in vocabulary(part)}

    assert "sofa" in names("pascal") and "couch" not in names("pascal")
    assert "couch" in names("photos") and "sofa" not in names("photos")


def test_sources_are_joined_and_each_needs_a_folder(config: DataConfig, photos: Path) -> None:
    once, twice = (
        tile_sets(config, source=source, root=root, quiet=True)
        for source, root in (("folder", str(photos)), ("folder, folder", f"{photos}, {photos}"))
    )
    assert len(twice.splits["unseen"]) == 2 * len(once.splits["unseen"])
    for source, root in (("folder, coco", str(photos)), ("folder", ""), ("", f"{photos},{photos}")):
        with pytest.raises(FusionerError, match="one folder for each"):
            tile_sets(config, source=source, root=root, quiet=True)


def test_nine_tiles_stand_in_the_middle(config: DataConfig) -> None:
    tiles = tile_sets(config, quiet=True)
    kinds, _ = mosaic_kinds(tiles, count=4, seed=0)
    nine = kinds["3x3"]
    assert (nine.grid, nine.tile, nine.asked, len(nine.scenes)) == (3, 21, None, 4)
    scene = nine.scenes[1]
    assert scene.labels.shape == (64, 64) and len(set(scene.names)) == 9 and (scene.labels[63] == 0).all()
    for place in range(9):
        top, left = (21 * part for part in divmod(place, 3))
        assert set(np.unique(scene.labels[top : top + 21, left : left + 21])) == {0, place + 1}


def test_without_published_supercategories_the_kind_is_left_out(config: DataConfig) -> None:
    tiles = tile_sets(config, quiet=True)
    kinds, left_out = mosaic_kinds(tiles, count=4, seed=0)
    # A user's folder publishes none; nor does FSS-1000.
    assert "same supercategory" not in kinds
    assert "publishes no supercategories" in left_out["same supercategory, unseen"]
    assert supercategory("cat", dataset="fss1000") is None


def test_published_supercategories() -> None:
    coco = {supercategory(name, dataset="coco") for name in COCO_NAMES}
    voc = {supercategory(name, dataset="pascal") for name in VOC_NAMES}
    assert len(coco) == 12 and None not in coco and voc == {"person", "animal", "vehicle", "indoor"}
    assert supercategory("couch", dataset="photos") == supercategory("sofa", dataset="pascal") == "indoor"
    assert supercategory("sofa", dataset="coco") == "furniture"
    drawn = {name: supercategory(name, dataset="openmoji") for name in things()}
    assert None not in drawn.values()
    assert drawn["bicycle"] == supercategory("blue bicycle", dataset="openmoji") == "transport-ground"
    assert supercategory("orange book", dataset="openmoji") == drawn["orange book"] == "book-paper"


def test_one_name_is_exchanged_for_one_that_no_tile_shows(config: DataConfig) -> None:
    tiles = tile_sets(config, quiet=True)
    kind = mosaic_kinds(tiles, count=6, seed=2)[0]["one absent"]
    plain = plain_mosaics(tiles, count=20, seed=2)["unseen"]
    assert kind.asked is not None and len(kind.asked) == len(kind.scenes) == 6
    places = set()
    for index, asked in enumerate(kind.asked):
        shown = kind.scenes.names(index)
        assert shown == plain.names(index)
        (place,) = [k for k in range(4) if asked[k] != shown[k]]
        places.add(place)
        assert asked[place] not in shown and asked[place] in NAMES
    assert len(places) > 1


def test_kinds_that_the_main_split_cannot_make(config: DataConfig) -> None:
    tiles = tile_sets(config, trained=["cat", "dog", "sofa", "horse"], quiet=True)
    kinds, left_out = mosaic_kinds(tiles, count=2, seed=0)
    assert list(kinds) == ["one absent"]
    assert left_out["3x3, unseen"] == "a 3x3 mosaic needs 9 different names, there are 6"
    assert "3x3, seen" in left_out
    few = tile_sets(config, trained=["cat", "dog", "sofa", "horse", "bus", "car"], quiet=True)
    kinds, left_out = mosaic_kinds(few, count=2, seed=0)
    assert list(kinds) == ["one absent, seen"] and "none is absent" in left_out["one absent, unseen"]
    assert mosaic_kinds(few, count=0, seed=0) == ({}, {})


def test_drawn_things_make_every_kind(drawn: Path) -> None:
    config = DataConfig(dataset="openmoji", root=drawn, size=64, objects=SETTINGS["objects"])
    tiles = tile_sets(config)
    assert list(tiles.splits) == ["seen", "combinations", "objects"]
    kinds, left_out = mosaic_kinds(tiles, count=8, seed=0)
    assert {name.split(",")[0] for name in kinds} == {"3x3", "same supercategory", "one absent"}, left_out
    same = next(kind for name, kind in kinds.items() if name.startswith("same"))
    groups = [{supercategory(name, dataset="openmoji") for name in same.scenes.names(index)} for index in range(8)]
    assert all(len(group) == 1 for group in groups)
    # Another run takes everything that is drawn, split by its own training.
    trained = [name.replace("_", " ") for name in drawing.load_splits(drawn).objects]
    other = tile_sets(DataConfig(dataset="folder", root=drawn), trained=trained, source="openmoji", root=str(drawn))
    assert set(vocabulary(other.splits["seen"])) == set(trained)


def test_absent_names_are_really_absent() -> None:
    present = [("sofa", "red car", "dog", "zebra"), ("cat", "bear", "cow", "tv")]
    words = ["couch", "car", "red bus", "dog", "cat", "tv monitor", "tree", "house", "dog house"]
    found = absent_names(words, present, count=20, seed=0)
    assert [set(names) for names in found] == [
        {"red bus", "cat", "tv monitor", "tree", "house"},
        {"couch", "car", "red bus", "dog", "tree", "house", "dog house"},
    ]
    assert found == absent_names(words, present, count=20, seed=0)
    assert all(len(names) == 2 for names in absent_names(words, present, count=2, seed=0))


def test_the_first_mosaics_are_the_first(config: DataConfig) -> None:
    mosaics = mosaic_sets(config, count=6, seed=0)["unseen"]
    few = first_mosaics(mosaics, 2)
    assert len(few) == 2 and (few[1].image == mosaics[1].image).all()
