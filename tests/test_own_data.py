"""The ten commands of docs/own_data.md, run as they stand there: from photos to a model on a hub of the test's own."""

import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import chelsea

from tests.conftest import ROOT
from tests.inference.test_publish import REPO, Hub

SECTION = "## Ten commands"


def commands() -> list[list[str]]:
    """The lines of the section's block, split as a shell does."""
    page = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8").partition(SECTION)[2]
    block = re.search(r"```console\n(.+?)```", page, re.DOTALL)
    assert block is not None
    return [shlex.split(line) for line in block[1].splitlines()]


@pytest.mark.soak
def test_ten_commands_from_photos_to_a_published_model(tmp_path: Path) -> None:
    assert len(commands()) == 10
    (tmp_path / "photos").mkdir()
    for number, stem in enumerate(("one", "two", "three", "four", "five", "six")):
        Image.fromarray(chelsea()[5 * number :, 10 * number :]).save(tmp_path / "photos" / f"{stem}.jpg")
    (tmp_path / "names.txt").write_text("cat\nwall\n")
    hub = Hub()
    threading.Thread(target=hub.http.serve_forever, daemon=True).start()
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HUB_CACHE": str(tmp_path / "hub")}
    environment = {**kept, **own, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    said = []
    for command in commands():
        # "user" is anyone's account; the test's hub has one that is called otherwise.
        words = [word.replace("user/my-model", REPO).replace("steps=200", "steps=2") for word in command]
        program = {"fusioner": [sys.executable, "-m", "fusionerlib.cli.app"], "python": [sys.executable]}[words[0]]
        run = subprocess.run(
            [*program, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{shlex.join(command)}:\n{run.stdout}{run.stderr}"
        said.append(run.stdout + run.stderr)
    hub.http.shutdown()
    assert "old names without a label here" in said[4]
    assert f"hf://{REPO}@" in said[8] and any(line.startswith("POST ") for line in hub.asked)
    first, own_masks, published = (
        (tmp_path / name).read_bytes() for name in ("overlay.png", "mine.png", "published.png")
    )
    assert own_masks == published != first
