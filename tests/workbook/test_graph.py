"""Runs: profiles and their overrides, and a graph that survives kill -9 and a failure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fusionerlib.errors import FusionerError
from tests.conftest import CHECKPOINT, ROOT, MakeNotebook, record_cell
from workbook.graph import Profile, load_profile, parsed, profile_names, run_profile, with_overrides

STEMS = ("01_feature_inspection", "02_training", "03_evaluation", "04_ablations", "05_mosaic4_robustness")


def test_the_packaged_profiles() -> None:
    assert profile_names() == ["demo", "full", "smoke"]
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name and tuple(profile.notebooks) == STEMS


def test_a_profile_of_one_s_own_and_a_broken_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"name": "mine", "notebooks": {"02_training": {"steps": 3}}}')
    assert load_profile(str(file)).notebooks["02_training"] == {"steps": 3}
    file.write_text('{"name": "mine", "notebook": {}}')
    with pytest.raises(FusionerError, match=r"notebook = \{\}"):
        load_profile(str(file))
    file.write_text("{")
    with pytest.raises(FusionerError, match="no JSON"):
        load_profile(str(file))


def test_overrides_reach_what_has_the_key(tmp_path: Path, make_notebook: MakeNotebook) -> None:
    make_notebook(tmp_path / "02.ipynb", "steps: int = 1\nseed: int = 0")
    make_notebook(tmp_path / "04.ipynb", "seed: int = 0")
    profile = Profile(name="p", data={"seed": 0, "root": "x"}, notebooks={"02": {}, "04": {"seed": 5}})
    changed = with_overrides(profile, {"seed": "7", "02.steps": "20", "data.size": "64"}, notebooks=tmp_path)
    assert changed.data == {"seed": 0, "root": "x", "size": 64}
    assert changed.notebooks == {"02": {"seed": 7, "steps": 20}, "04": {"seed": 7}}
    assert profile.notebooks["02"] == {}
    with pytest.raises(FusionerError, match="--set stpes=3"):
        with_overrides(profile, {"stpes": "3"}, notebooks=tmp_path)
    with pytest.raises(FusionerError, match=r"write data\.root=y"):
        with_overrides(profile, {"root": "y"}, notebooks=tmp_path)
    with pytest.raises(FusionerError, match=r"--set 09\.steps=3"):
        with_overrides(profile, {"09.steps": "3"}, notebooks=tmp_path)


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("1e-3", 1e-3), ("true", True), ("a=b", "a=b"), ('"3"', "3")])
def test_settings_are_json_where_they_can_be(text: str, value: Any) -> None:
    assert parsed(text) == value


def test_outside_a_clone_the_remedy_is_told(tmp_path: Path) -> None:
    for package in ("fusionerlib", "workbook", "studies"):
        shutil.copytree(ROOT / package, tmp_path / "site" / package)
    command = [sys.executable, "-m", "fusionerlib.cli.app", "run", "smoke"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is in no clone" in done.stderr and "make install" in done.stderr


SLOW_TRAINING = """import json, time
from pathlib import Path
running = Path(run_dir, "training"); running.mkdir(parents=True, exist_ok=True)
state = running / "state.json"
done = json.loads(state.read_text()) if state.is_file() else []
start = len(done)
while len(done) < steps:
    done.append(start)
    state.with_suffix(".part").write_text(json.dumps(done)); state.with_suffix(".part").replace(state)
    time.sleep(0.02 if start else 0.5)"""


def insert_cell(notebook: Path, source: str, place: int) -> None:
    content = json.loads(notebook.read_text())
    cell = {"cell_type": "code", "execution_count": None, "id": f"more{place}", "metadata": {}, "outputs": []}
    content["cells"].insert(place, {**cell, "source": source})
    notebook.write_text(json.dumps(content))


def wait_for(state: Path, steps: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        if state.is_file() and len(json.loads(state.read_text())) >= steps:
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.1)
    raise AssertionError("the training never started")


def test_a_run_goes_on_after_kill_9_and_after_a_failure(tiny_clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebooks, run = tiny_clone / "notebooks", tiny_clone / "outputs" / "tiny"
    insert_cell(notebooks / "02_training.ipynb", SLOW_TRAINING, 2)
    command = [sys.executable, "-m", "fusionerlib.cli.app", "run", "tiny.json", "--set", "steps=40"]
    process = subprocess.Popen(command, cwd=tiny_clone, start_new_session=True)
    wait_for(run / "training" / "state.json", 3, process)
    with pytest.raises(FusionerError, match="going on"):
        run_profile(str(tiny_clone / "tiny.json"), clone=tiny_clone)
    run_profile(str(tiny_clone / "tiny.json"), clone=tiny_clone, dry_run=True)
    assert process.poll() is None, "a dry run reads beside the run"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "checkpoint" / "model.safetensors").exists()

    # The same call goes on where training was; one notebook fails, and the others are done all the same.
    bad = 'raise ValueError("no <tile> was won")'
    insert_cell(notebooks / "05_mosaic4_robustness.ipynb", bad, 2)
    again: dict[str, Any] = {"clone": tiny_clone, "overrides": {"steps": "40"}, "cores": 2}
    with pytest.raises(FusionerError, match="05_mosaic4_robustness: ValueError: no <tile> was won"):
        run_profile(str(tiny_clone / "tiny.json"), **again)
    starts = json.loads((run / "training" / "state.json").read_text())
    assert len(starts) == 40 and starts[0] == 0 and starts[-1] >= 3
    assert "no <tile> was won" in (run / "notebooks" / "05_mosaic4_robustness.ipynb").read_text()
    assert "no &lt;tile&gt; was won" in (run / "index.html").read_text()
    records = {stem: run / "records" / f"{stem}.json" for stem in STEMS}
    assert [stem for stem in STEMS if not records[stem].is_file()] == ["05_mosaic4_robustness"]
    assert json.loads(records["02_training"].read_text()) == {"threads": "2", "cwd": str(tiny_clone)}
    assert json.loads(records["03_evaluation"].read_text())["threads"] == "1"

    # Mended, that notebook alone runs, and the pages after it.
    before = {stem: file.stat().st_mtime_ns for stem, file in records.items() if file.is_file()}
    content = json.loads((notebooks / "05_mosaic4_robustness.ipynb").read_text())
    content["cells"] = [cell for cell in content["cells"] if cell["source"] != bad]
    (notebooks / "05_mosaic4_robustness.ipynb").write_text(json.dumps(content))
    assert run_profile(str(tiny_clone / "tiny.json"), **again) == run
    assert {stem: records[stem].stat().st_mtime_ns for stem in before} == before
    assert "All 5 notebooks ran to their end" in (run / "index.html").read_text()
    assert len(list((run / "pages").glob("*.html"))) == 5

    # Nothing is left to do; another parameter would make training and all after it run again.
    capfd.readouterr()
    run_profile(str(tiny_clone / "tiny.json"), dry_run=True, **again)
    assert "Nothing to be done" in capfd.readouterr().out
    run_profile(str(tiny_clone / "tiny.json"), dry_run=True, **{**again, "overrides": {"steps": "41"}})
    assert "total             7" in capfd.readouterr().out
    assert json.loads((run / "profile.json").read_text())["notebooks"]["02_training"] == {"steps": 40}


def test_changed_masks_of_one_s_own_are_trained_on_again(
    tiny_clone: Path, tmp_path: Path, make_notebook: MakeNotebook, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own data ä"
    for part in ("images", "masks"):
        (own / part).mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (64, 64), (9 * number, 0, 0)).save(own / "images" / f"{number}.bmp")
        Image.new("L", (64, 64), 1).save(own / "masks" / f"{number}.bmp")
    (own / "names.txt").write_text("1 cat\n2 dog\n")
    head = 'run_dir: str = "outputs/tiny"\ndataset: str = "openmoji"\nroot: str = ""'
    make_notebook(tiny_clone / "notebooks" / "02_training.ipynb", head, CHECKPOINT, record_cell("02_training"))
    profile = {"name": "tiny", "notebooks": {stem: {} for stem in STEMS}}
    profile["notebooks"]["02_training"] = {"dataset": "folder", "root": str(own)}
    (tiny_clone / "tiny.json").write_text(json.dumps(profile))

    def told() -> str:
        capfd.readouterr()
        run_profile(str(tiny_clone / "tiny.json"), clone=tiny_clone, dry_run=True)
        return capfd.readouterr().out

    run_profile(str(tiny_clone / "tiny.json"), clone=tiny_clone)
    assert "Nothing to be done" in told()
    mask = own / "masks" / "2.bmp"
    size = mask.stat().st_size
    Image.new("L", (64, 64), 2).save(mask)
    assert mask.stat().st_size == size
    assert "total             7" in told()
    own.rename(tmp_path / "moved away")
    assert "Nothing to be done" in told(), "what is finished stays where the data is gone"
