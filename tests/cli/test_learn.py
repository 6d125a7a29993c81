"""`fusioner learn`: names from a folder of labelled images, and forgetting them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea
from typer.testing import CliRunner

from fusionerlib import Segmenter
from fusionerlib.cli.app import app

COUNT = 40
"""More images, and of more sizes, than wait in memory at once."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pieces of a photo: "whiskers" in each but the last, which shows "wall" alone."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(COUNT):
        photo = chelsea()[: 120 + 2 * number, :160]
        labels = np.zeros(photo.shape[:2], np.uint8)
        labels[20:90, 30:100] = 2 if number == COUNT - 1 else 1
        Image.fromarray(photo).save(tmp_path / "images" / f"{number:02}.png")
        Image.fromarray(labels).save(tmp_path / "masks" / f"{number:02}.png")
    (tmp_path / "names.txt").write_text("1 whiskers\n2 wall\n")
    return tmp_path


def test_each_name_is_learnt_from_the_images_that_show_it_and_forgotten_again(folder: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["learn", *arguments, "-o", str(folder / "learned")])
        assert done.exit_code == 0, done.output + done.stderr
        return done.stdout

    told = run("whiskers, Walls", "--examples", str(folder)).splitlines()
    assert told[:2] == [f"whiskers: learnt from {COUNT - 1} examples", "Walls: learnt from 1 example"]
    learnt = Segmenter.load(folder / "learned")
    assert {"whiskers", "wall"} <= set(learnt.example_names)
    table = learnt.model.examples
    assert table.counts[table.names.index("whiskers")] == COUNT - 1

    # One after the other gives the same sum as all at once.
    alone = Segmenter.load("packaged")
    for number in range(COUNT - 1):
        image, mask = (Image.open(folder / kind / f"{number:02}.png") for kind in ("images", "masks"))
        alone.learn("whiskers", [(image, np.asarray(mask) == 1)])
    own = alone.model.examples
    expected, found = own.sums[own.names.index("whiskers")], table.sums[table.names.index("whiskers")]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)

    assert "whiskers: forgotten" in run("--forget", "whiskers", "--checkpoint", str(folder / "learned"))
    kept = Segmenter.load(folder / "learned").example_names
    assert "whiskers" not in kept and "wall" in kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to learn or to forget"),
        (["zebra"], "give --examples FOLDER"),
        (["zebra", "--examples", "{folder}"], "no image in {folder} shows 'zebra'"),
        (["--forget", "zebra crossing"], "no examples"),
    ],
)
def test_what_can_t_be_learnt_is_told(folder: Path, arguments: list[str], said: str) -> None:
    given = [argument.format(folder=folder) for argument in arguments]
    done = CliRunner().invoke(app, ["learn", *given, "-o", str(folder / "learned")])
    assert done.exit_code == 2 and said.format(folder=folder) in done.stderr, done.stderr
    assert not (folder / "learned").exists()
