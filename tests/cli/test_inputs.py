"""What is typed after `fusioner segment` and `fusioner predict`: photos, names, thresholds and places."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea
from typer.testing import CliRunner

from fusionerlib import Segmenter, __version__
from fusionerlib.cli import inputs
from fusionerlib.cli.app import app
from fusionerlib.errors import FusionerError

runner = CliRunner()

LIGHT = """
import sys
from fusionerlib.cli.app import app
try: app(sys.argv[1:])
except SystemExit as stop: assert stop.code == 2, stop.code
heavy = {"torch", "torchvision", "timm", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two photos, a file named as a thing, and a folder of one."""
    monkeypatch.chdir(tmp_path)
    for name in ("tabby.jpg", "second.png", "more/third.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(chelsea()[::4, ::4]).save(tmp_path / name)
    (tmp_path / "sofa").write_bytes((tmp_path / "second.png").read_bytes())
    return tmp_path


def test_a_file_is_a_photo_and_never_a_name(photos: Path) -> None:
    given = ["tabby.jpg", "second.png", "cat, dog", "sofa", "blue bird", "more"]
    assert inputs.photos_and_names(given) == (["tabby.jpg", "second.png", "sofa"], ("cat", "dog", "blue bird", "more"))
    assert inputs.photos_and_names(["cat", "tabby.jpg"]) == (["tabby.jpg"], ("cat",))
    assert inputs.photos_and_names(["-"], "a,b") == (["-"], ("a", "b"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["taby.jpg", "cat"], "'taby.jpg' is not a file: did you mean 'tabby.jpg'?"),
        (["taby", "cat"], "'taby' is not a file: did you mean 'tabby.jpg'?"),
        (["more/thrid.jpg", "cat"], "did you mean 'more/third.jpg'?"),
        (["tabby.jpg", "missing.png", "cat"], "'missing.png' is not a file"),
        (["https://example.org/cat.jpg", "cat"], "is a URL, and nothing is downloaded here: download it first"),
        (["tabby.jpg"], "no names to look for in tabby.jpg"),
        (["tabby.jpg", "second.png"], "no names to look for"),
        (["tabby.jpg", " , "], "no names to look for"),
        (["tabby.jpg", "cat", "cat"], "'cat' is given twice"),
        (["tabby.jpg", "cat", "--threshold", "2"], "threshold 2.0 is outside 0-1"),
        (["tabby.jpg", "cat", "--threshold", "dog=0.3"], "threshold of 'dog', which is not asked for"),
        (["tabby.jpg", "cat", "--threshold", "high"], "threshold 'high': expected a number"),
        (["tabby.jpg", "cat", "-o", "mask.txt"], "mask.txt is no name of an image file"),
        (["tabby.jpg", "cat", "-o", "tabby.jpg"], "the overlay would replace its photo tabby.jpg"),
        (["tabby.jpg", "second.png", "cat", "-o", "one.png"], "2 photos can't share one.png: give a folder"),
        (["tabby.jpg", "cat", "--checkpoint", "nothing-here"], "no checkpoint 'nothing-here'"),
        (["tabby.jpg", "cat", "--quiet", "--verbose"], "exclude each other"),
    ],
)
def test_segment_refuses(photos: Path, arguments: list[str], told: str) -> None:
    result = runner.invoke(app, ["segment", *arguments])
    assert result.exit_code == 2 and told in result.stderr and result.stdout == ""
    assert sorted(file.name for file in photos.iterdir()) == ["more", "second.png", "sofa", "tabby.jpg"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--names", "cat"], "'nowhere' is not a file"),
        (["https://example.org/photos", "--names", "cat"], "download it first"),
        (["empty", "--names", "cat"], "empty holds no image"),
        (["empty.txt", "--names", "cat"], "empty.txt lists no image"),
        (["tabby.jpg", "--names", "mising.txt"], "'mising.txt' is not a file"),
        (["tabby.jpg", "--names", "cat", "--format", "index,yolo"], "format 'yolo': expected some of index, coco"),
        (["tabby.jpg", "--names", "cat", "--instances"], "add the format coco"),
        (["tabby.jpg", "--names", "cat", "--shard", "3of4"], "shard '3of4': expected a text such as 3/16"),
        (["tabby.jpg", "--names", "cat", "--shard", "5/4"], "shard 5/4"),
        (["tabby.jpg", "--names", "cat", "--images", "move"], "images 'move': expected one of link, copy, none"),
        (["tabby.jpg", "--names", "cat", "--checkpoint", "none"], "no checkpoint 'none'"),
        (["tabby.jpg", "more/tabby.png", "--names", "cat"], "would share one mask"),
    ],
)
def test_predict_refuses(photos: Path, arguments: list[str], told: str) -> None:
    (photos / "empty").mkdir()
    (photos / "empty.txt").write_text("\n")
    (photos / "more/tabby.png").write_bytes((photos / "second.png").read_bytes())
    result = runner.invoke(app, ["predict", *arguments, "-o", "out"])
    assert result.exit_code == 2 and told in result.stderr and result.stdout == ""
    assert not (photos / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "taby.jpg", "cat"],
        ["segment", "tabby.jpg", "cat", "-o", "mask.txt"],
        ["segment", "tabby.jpg", "cat", "--checkpoint", "nothing-here"],
        ["segment", "tabby.jpg", "cat", "--threshold", "dog=1"],
        ["predict", "tabby.jpg", "--names", "cat,cat"],
        ["predict", "tabby.jpg", "--names", "cat", "--format", "yolo"],
    ],
)
def test_refusals_import_nothing_heavy(photos: Path, arguments: list[str]) -> None:
    start = time.process_time(), os.times().children_user
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - start[1] < 1.0, "CPU seconds"


def test_names_come_from_a_text_or_a_file(tmp_path: Path) -> None:
    assert inputs.names_given("cat, blue sofa ,") == ("cat", "blue sofa")
    (tmp_path / "names.txt").write_text("cat\n\nblue sofa\n")
    (tmp_path / "numbered.txt").write_text("1 cat\n2 blue sofa\n")
    for file in ("names.txt", "numbered.txt"):
        assert inputs.names_given(str(tmp_path / file)) == ("cat", "blue sofa")


def test_photos_come_from_files_folders_and_lists(photos: Path) -> None:
    (photos / "list.txt").write_text("tabby.jpg\nmore/third.jpg\ngone.jpg\n")
    (photos / "more" / "own.txt").write_text("third.jpg\n")
    (photos / "more" / ".hidden.jpg").touch()
    given = ["second.png", "more", "list.txt", "more/own.txt"]
    expected = ["second.png", "more/third.jpg", "tabby.jpg", "gone.jpg"]
    assert inputs.photos_given(given) == [Path(one) for one in expected]


def test_thresholds_come_alone_or_by_name() -> None:
    assert inputs.threshold_given([], ["cat"]) == 0.5
    assert inputs.threshold_given(["0.3"], ["cat"]) == 0.3
    assert inputs.threshold_given(["cat=0.3", "a=b=0.6"], ["cat", "a=b"]) == {"cat": 0.3, "a=b": 0.6}
    with pytest.raises(FusionerError, match="several thresholds"):
        inputs.threshold_given(["0.3", "cat=0.2"], ["cat"])


def test_several_photos_have_an_overlay_each(photos: Path) -> None:
    (photos / "broken.jpg").write_text("text")
    arguments = ["segment", "tabby.jpg", "broken.jpg", "second.png", "cat", "-o", "drawn"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1 and "'broken.jpg' can't be read" in result.stderr
    assert sorted(os.listdir("drawn")) == ["second.overlay.png", "tabby.overlay.png"]
    lines = result.stdout.splitlines()
    assert lines[0] == "tabby.jpg" and lines[2].endswith("tabby.overlay.png") and lines[3] == "second.png"
    segmenter = Segmenter.load("packaged")
    for stem, file in (("tabby", "tabby.jpg"), ("second", "second.png")):
        expected = segmenter.set_image(file).segment(["cat"]).overlay().convert("RGB")
        np.testing.assert_array_equal(np.asarray(Image.open(f"drawn/{stem}.overlay.png")), np.asarray(expected))


def test_an_image_comes_from_standard_input_and_a_forced_choice_has_no_background(photos: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(chelsea()[::4, ::4]).save(content, "PNG")
    options = ["--no-background", "--verbose", "-o", "out.png"]
    result = runner.invoke(app, ["segment", "-", "cat,dog", *options], input=content.getvalue())
    assert result.exit_code == 0, result.output
    shares = [float(line.split("%")[0]) for line in result.stdout.splitlines()[:2]]
    assert sum(shares) == pytest.approx(100, abs=0.11)
    assert "checkpoint packaged and its encoders loaded on cpu" in result.stderr
    refused = runner.invoke(app, ["segment", "-", "cat"], input=b"text")
    assert refused.exit_code == 2 and "standard input (4 bytes) is no image" in refused.stderr


def test_a_squeezed_panorama_is_said(photos: Path) -> None:
    Image.fromarray(np.tile(chelsea()[::2, ::2], (1, 3, 1))).save("wide.png")
    told = "the image of 678 x 150 pixels is resized to a square"
    single = runner.invoke(app, ["segment", "wide.png", "cat"])
    assert single.exit_code == 0 and told in single.stderr and "--sliding" in single.stderr
    assert any(told in note for note in Segmenter.load("packaged").set_image("wide.png").segment(["cat"]).notes)
    for options, expected in (([], True), (["--sliding"], False)):
        out = f"masks{len(options)}"
        many = runner.invoke(app, ["predict", "wide.png", "tabby.jpg", "--names", "cat", "-o", out, *options])
        assert many.exit_code == 0 and ("panoramas" in many.stderr) == expected, many.stderr
        assert not expected or "what they show: 1;" in many.stderr


def test_nothing_found_is_said_and_quiet_says_nothing(photos: Path) -> None:
    arguments = ["segment", "tabby.jpg", "cat", "--threshold", "1"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0 and "no name was found in tabby.jpg: the largest probability is" in result.stderr
    quiet = runner.invoke(app, [*arguments, "--quiet"])
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_version_and_completion(photos: Path) -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"fusioner {__version__}\n"
    assert "--install-completion" in runner.invoke(app, ["--help"]).stdout
    assert inputs.complete_paths("t") == ["tabby.jpg"]
    assert inputs.complete_paths("mo") == ["more/"] and inputs.complete_paths("more/th") == ["more/third.jpg"]
    environment = {**os.environ, "_FUSIONER_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    environment["COMP_WORDS"] = "fusioner segment ta"
    code = "from fusionerlib.cli.app import app; app(prog_name='fusioner')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["tabby.jpg"], done.stderr
