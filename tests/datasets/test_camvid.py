"""CamVid from the publishers' archives or a folder, against colours that are written out here."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib import FusionerError, read_folder
from fusionerlib.cli.data import data
from fusionerlib.datasets import camvid
from tests.datasets.test_pascal import SHARED

MINI = SHARED / "camvid-mini"
# Rows of the publishers' label_colors.txt, and the name that each belongs to here.
ROWS = """
64 128 64 Animal pedestrian|192 0 128 Archway building|0 128 192 Bicyclist bicyclist|0 128 64 Bridge building
128 0 0 Building building|64 0 128 Car car|64 0 192 CartLuggagePram pedestrian|192 128 64 Child pedestrian
192 192 128 Column_Pole pole|64 64 128 Fence fence|128 0 192 LaneMkgsDriv road|192 0 64 LaneMkgsNonDriv road
128 128 64 Misc_Text sign|192 0 192 MotorcycleScooter bicyclist|128 64 64 OtherMoving car
64 192 128 ParkingBlock pavement|64 64 0 Pedestrian pedestrian|128 64 128 Road road|128 128 192 RoadShoulder pavement
0 0 192 Sidewalk pavement|192 128 128 SignSymbol sign|128 128 128 Sky sky|64 128 192 SUVPickupTruck car
0 0 64 TrafficCone pole|0 64 64 TrafficLight sign|192 64 128 Train car|128 128 0 Tree tree|192 128 192 Truck_Bus car
64 0 64 Tunnel building|192 192 0 VegetationMisc tree|0 0 0 Void ignored|64 192 0 Wall building
"""
TABLE = {tuple(int(number) for number in row.split()[:3]): row.split()[4] for row in re.split(r"[|\n]", ROWS.strip())}
FRAMES = ["0006R0_f00930", "0001TP_008490", "0001TP_008520", "0016E5_07959", "0016E5_08640", "Seq05VD_f00000"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The publishers' two archives of six frames; every colour is in every mask."""
    folder = tmp_path / "theirs"
    (folder / "701_StillsRaw_full").mkdir(parents=True)
    mask = np.array([list(TABLE)] * 4, dtype=np.uint8)
    with zipfile.ZipFile(folder / "LabeledApproved_full.zip", "w") as labels:
        for number, stem in enumerate(FRAMES):
            photo = np.full((4, len(TABLE), 3), 40 * number, dtype=np.uint8)
            Image.fromarray(photo).save(folder / "701_StillsRaw_full" / f"{stem}.png")
            Image.fromarray(mask).save(folder / f"{stem}_L.png")
            labels.write(folder / f"{stem}_L.png", f"{stem}_L.png")
    with zipfile.ZipFile(folder / "701_StillsRaw_full.zip", "w") as images:
        for file in (folder / "701_StillsRaw_full").iterdir():
            images.write(file, f"701_StillsRaw_full/{file.name}")
    return folder


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_publishers_files_become_ones_own_folder(published: Path, tmp_path: Path, unpacked: bool) -> None:
    assert len(TABLE) == 32 and len(set(TABLE.values()) - {"ignored"}) == 11
    root = tmp_path / "camvid"
    archives = [published / "LabeledApproved_full.zip", published / "701_StillsRaw_full.zip"]
    given = [published] if unpacked else archives
    told = CliRunner().invoke(data, ["camvid", "--root", str(root), "--quiet", "--from", *map(str, given)])
    assert told.exit_code == 0, told.output
    assert "for research: 3 images in train, 3 images in val, 11 names" in told.output
    assert [camvid.validates(stem) for stem in FRAMES] == [False, False, True, True, False, True]
    for split, stems in (("train", {0, 1, 4}), ("val", {2, 3, 5})):
        scenes = read_folder(root, split=split)
        assert {scenes[index].key for index in range(3)} == {FRAMES[number] for number in stems}
    scene = read_folder(root)[0]
    assert scene.names == tuple(camvid.CLASSES)
    for column, name in enumerate(TABLE.values()):
        assert set(scene.labels[:, column]) == {255 if name == "ignored" else scene.names.index(name) + 1}
    assert not (root / ".camvid.part").exists()
    assert camvid.prepare(root) == {"train": 3, "val": 3}, "what is there is counted, and nothing is downloaded"


def test_what_is_missing_or_of_another_kind_is_named(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "camvid"
    with pytest.raises(FusionerError, match=r"6 of 6 masks have no image \(0001TP_008490, .*give both of Labeled"):
        camvid.prepare(root, [published / "LabeledApproved_full.zip"], quiet=True)
    Image.new("RGB", (32, 4), (1, 2, 3)).save(published / "0006R0_f00930_L.png")
    with pytest.raises(FusionerError, match=r"0006R0_f00930_L\.png: 128 pixels of unknown colours, \(1, 2, 3\) first"):
        camvid.prepare(root, [published], quiet=True)
    Image.new("RGB", (31, 4)).save(published / "0006R0_f00930_L.png")
    with pytest.raises(FusionerError, match="differ in size"):
        camvid.prepare(root, [published], quiet=True)
    with pytest.raises(FusionerError, match="neither an archive nor a folder"):
        camvid.prepare(root, [published / "nothing.zip"], quiet=True)
    assert [file.name for file in root.iterdir()] == [".fusioner-data.lock"], "nothing half made is left"


@pytest.mark.skipif(not MINI.is_dir(), reason="a reduced copy of CamVid is not on this machine")
def test_a_folder_of_ones_own_layout_is_taken_as_it_is(tmp_path: Path) -> None:
    assert camvid.prepare(tmp_path / "camvid", [MINI], quiet=True) == {"train": 184, "val": 129}
    for part in ("names.txt", "train.txt", "val.txt"):
        own, theirs = (sorted((home / part).read_text().split()) for home in (tmp_path / "camvid", MINI))
        assert own == theirs
    for file in list((MINI / "masks").iterdir())[::40]:
        copy = np.asarray(Image.open(tmp_path / "camvid" / "masks" / file.name))
        np.testing.assert_array_equal(copy, np.asarray(Image.open(file)))
    (tmp_path / "masks").mkdir()
    (tmp_path / "names.txt").write_text("sky\n")
    with pytest.raises(FusionerError, match="has other names than CamVid's"):
        camvid.prepare(tmp_path / "other", [tmp_path], quiet=True)
