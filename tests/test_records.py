"""What a run leaves behind: figures of several writers in one file, and where they came from."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from fusionerlib.config import RunConfig
from fusionerlib.digests import unsealed
from fusionerlib.errors import FusionerError
from fusionerlib.records import git_state, update_metrics, write_run_record


def test_writers_do_not_undo_each_other(tmp_path) -> None:
    path = tmp_path / "metrics.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: update_metrics(path, {"group": {f"m{i}": i}}), range(40)))
    assert unsealed(path.read_text(), required=True) == {"group": {f"m{i}": i for i in range(40)}}
    assert [file.name for file in tmp_path.glob("*.json")] == ["metrics.json"]


def test_figures_are_kept_where_the_file_they_belong_into_is_damaged(tmp_path) -> None:
    path = tmp_path / "metrics.json"
    update_metrics(path, {"training": {"loss": 0.5}})
    whole = path.read_text()
    path.write_text(whole.replace("0.5", "0.7"))
    with pytest.raises(FusionerError, match=r"metrics\.json can't be read .* kept in metrics\.unmerged-\w+\.json"):
        update_metrics(path, {"evaluation": {"miou": 0.25}})
    path.write_text(whole)
    merged = update_metrics(path, {"ablations": {"depth": 2}})
    assert merged == {"training": {"loss": 0.5}, "evaluation": {"miou": 0.25}, "ablations": {"depth": 2}}
    assert [file.name for file in tmp_path.glob("*.json")] == ["metrics.json"]


def test_a_record_holds_config_versions_and_more(tmp_path) -> None:
    write_run_record(tmp_path / "deep" / "r.json", RunConfig.flat(seed=7), result=1.5)
    record = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert record["config"]["training"]["seed"] == 7 and record["result"] == 1.5
    assert record["environment"]["packages"]["torch"] and record["environment"]["python"].startswith("3.")


def test_git_state_tells_commit_and_changes(tmp_path) -> None:
    assert git_state(tmp_path) == {}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["dirty"] is True
