"""What a run tells while it runs, and its first page."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

from fusionerlib.errors import FusionerError
from fusionerlib.files import exclusive
from tests.conftest import requests_of
from workbook import run_log
from workbook.cleaning import remove, sizes
from workbook.report.first_look import ASKED, write_first_look
from workbook.run_log import STEPS, RunLog, new_lines, time_text


def test_each_finished_step_is_one_line_with_the_time_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [0.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: clock[0])
    told: list[str] = []
    log = RunLog(tmp_path, seconds=dict.fromkeys(STEPS, 10.0), tell=told.append)
    log.read(iter(["Building DAG of jobs...", "all 1", f"total             {len(STEPS) + 1}", "rule data:"]))
    clock[0] = 40.0
    log.read(iter(["drawing: 50%, 4 of 8 things, 1 things/s, 00:30 gone, 00:30 left"]))
    log.read(iter(["drawing: 60%, 5 of 8 things, 1 things/s, 00:30 gone, 00:30 left"]))
    assert told.pop().startswith("  drawing: 50%") and not told  # the next line comes too soon
    log.read(iter(["Finished jobid: 3 (Rule: data)"]))
    # One step of seven took 40 s, four times as long as was written: six such steps are left.
    assert told == ["1 of 7, 4 min left: draw the data set"]
    log.read(iter(["Error in rule mosaic4:", "Finished jobid: 0 (Rule: all)"]))
    assert told[1:] == ["  failed: test it on mosaics"]
    assert RunLog(tmp_path, seconds={}).left() is None


def test_half_a_line_waits_for_its_end() -> None:
    stream = io.StringIO("one\ntw")
    assert list(new_lines(stream)) == ["one"]
    stream.seek(0, 2)
    stream.write("o\n")
    stream.seek(4)
    assert list(new_lines(stream)) == ["two"]
    assert [time_text(seconds) for seconds in (2, 38, 89, 119, 300)] == ["10 s", "40 s", "90 s", "2 min", "5 min"]


def test_the_first_page_shows_the_packaged_checkpoint_and_fetches_nothing(tmp_path: Path, browser: Any) -> None:
    page = write_first_look(tmp_path, steps=[("draw", ""), ("train it", "pages/02.html")])
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r'<img src="data:image/webp;base64,[\w+/]{1000}', text)) == len(ASKED)
    assert "Asked: cat, sofa." in text and "Not in the photograph, and given no pixel: sofa." in text
    assert "names with training masks: helmet, rocket, flag." in text and "In the photograph, but missed: flag." in text
    assert '<a href="pages/02.html">train it</a>' in text and "<li>draw</li>" in text
    assert requests_of(browser, page) == []
    assert "make demo" in write_first_look(tmp_path / "alone").read_text(encoding="utf-8")


def test_clean_lists_and_deletes_only_what_can_be_made_again(tmp_path: Path) -> None:
    kept = ("data/pascal/a.jpg", "outputs/demo/checkpoint/model.safetensors", "outputs/demo/index.html")
    made = (
        "data/features/x/a.safetensors",
        "data/openmoji/cat/1.jpg",
        "outputs/demo/training/step-1/model.safetensors",
    )
    for file in (*kept, *made):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x" * 100)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photo.jpg").write_bytes(b"x")
    (tmp_path / "data/openmoji-smoke").symlink_to(elsewhere)
    assert {name: size for name, (_, size) in sizes(tmp_path).items()} == {
        **{"features": 100, "drawings": 100, "training": 100, "docs": 0}
    }
    with pytest.raises(FusionerError, match="'features'"):
        remove(["feature"], clone=tmp_path)
    with (
        exclusive(tmp_path / "outputs/demo/.run.lock", "a run"),
        pytest.raises(FusionerError, match="going on"),
    ):
        remove(["features"], clone=tmp_path)
    assert remove(["features", "drawings", "training"], clone=tmp_path) == 300
    assert [file for file in kept if not (tmp_path / file).is_file()] == []
    assert [file for file in made if (tmp_path / file).exists()] == []
    assert (elsewhere / "photo.jpg").is_file(), "what a link points at is not ours"
