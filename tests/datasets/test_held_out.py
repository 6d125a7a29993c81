"""``held_out``: a folder of one's own without a name, which evaluation then reports as unseen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.config import DataConfig, RunConfig
from fusionerlib.datasets.folder import read_folder
from fusionerlib.datasets.sets import load_datasets
from fusionerlib.datasets.transforms import Without
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.scores import evaluate
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.runs import fit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten pictures of 64 x 64: left half dog, right half cat; the last two show a couch alone."""
    folder = tmp_path / "photos"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    (folder / "names.txt").write_text("cat\ndog\ncouch\n")
    for number in range(10):
        labels = np.zeros((64, 64), dtype=np.uint8)
        labels[:32, :32], labels[:32, 32:] = (2, 1) if number < 8 else (3, 3)
        pixels = np.random.default_rng(number).integers(0, 99, (64, 64, 3), dtype=np.uint8) + labels[..., None] * 40
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.mark.parametrize(("novel", "label"), [("", 255), ("ignore", 255), ("background", 0)])
def test_training_does_without_a_name_and_the_test_keeps_it(root, novel, label):
    sets = load_datasets(DataConfig(dataset="folder", root=root, size=64, held_out=("cat",), novel=novel))
    assert {name for index in range(len(sets.train)) for name in sets.train.names(index)} == {"dog", "couch"}
    scene = sets.train[0]
    assert scene.names == ("dog",)
    assert (scene.labels[:30, :30] == 1).all() and (scene.labels[:30, 34:] == label).all()
    assert (scene.labels[34:] == 0).all()
    assert set(sets.tests["validation"].names(0)) == {"cat", "dog"}


@pytest.mark.parametrize("name", ["sofa", "Couches", "a settee"])
def test_a_synonym_or_another_form_holds_the_category_out(root, name):
    sets = load_datasets(DataConfig(dataset="folder", root=root, size=64, held_out=(name,)))
    assert len(sets.train) == 6 and "couch" not in {name for i in range(6) for name in sets.train.names(i)}


def test_other_settings_are_other_data(root):
    scenes = read_folder(root)
    sets = [Without(scenes, names, novel=novel) for names in (["cat"], ["dog"]) for novel in ("ignore", "background")]
    assert len({made.fingerprint for made in (*sets, scenes)}) == 5


def test_what_can_not_be_held_out_is_named(root):
    with pytest.raises(FusionerError, match=r"held_out .cta.: no training image shows it: .*cat"):
        load_datasets(DataConfig(dataset="folder", root=root, held_out=("cta",)))
    with pytest.raises(FusionerError, match="no training image shows another name; hold out fewer"):
        load_datasets(DataConfig(dataset="folder", root=root, held_out=("cat", "dog", "couch")))
    with pytest.raises(FusionerError, match="held_out is for folder and photos, not for 'pascal'"):
        RunConfig.flat(dataset="pascal", held_out=["cat"])


def test_a_run_reports_the_name_as_unseen(root, tmp_path):
    leaves = {"dataset": "folder", "root": root, "features": tmp_path / "features", "size": 64, "steps": 1, "batch": 2}
    small = {"preset": "small", "width": 24, "heads": 2, "depth": 1, "decoder_width": 8, "warmup": 0}
    run = RunConfig.flat(**leaves, **small, held_out=["cat"])
    segmenter = Segmenter.load(fit(run, tmp_path / "run", quiet=True))
    assert segmenter.trained_names == ("couch", "dog")
    scores = evaluate(segmenter, read_folder(root, split="val"), quiet=True)
    rows = {row["name"]: row for row in scores.classes()}
    assert [name for name, row in rows.items() if not row["seen"]] == ["cat"]
