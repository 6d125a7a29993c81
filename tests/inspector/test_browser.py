"""The inspector in headless Chromium, in a JupyterLab on this machine: typed, slid, clicked, and looked at.

Pictures of it go to the folder in FUSIONER_SCREENSHOTS, if it is set.
"""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.models import build
from tests.conftest import CHROMIUM, MakeNotebook
from tests.inspector.test_strokes import learner
from workbook.execution import own_kernel

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: the extra `workbook`")
pytest.importorskip("playwright", reason="playwright is not installed: the extra `dev`")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

CELL = """from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
inspect(Segmenter.load("checkpoint"), ["cat.png"], names=["cat"])"""
SETTINGS = {"fetchNews": "false", "checkForUpdates": False}
PATIENCE = 60_000
"""Milliseconds that a slow machine is given."""


@pytest.fixture
def folder(tmp_path: Path, make_notebook: MakeNotebook) -> Path:
    """What JupyterLab serves: a tiny checkpoint of random weights, a photo, a notebook."""
    run = RunConfig.flat(width=24, heads=2, depth=2, size=96, templates="photo", logit_bias=0.0)
    torch.manual_seed(0)
    model = build(run.fusion, visual_width=432, text_width=384)
    checkpoints.save(tmp_path / "served" / "checkpoint", model=model, run=run, trained_names=["cat"])
    Image.fromarray(chelsea()).save(tmp_path / "served" / "cat.png")
    make_notebook(tmp_path / "served" / "look.ipynb", CELL)
    return tmp_path / "served"


@pytest.fixture
def lab(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab that serves ``folder`` and knows no settings of the user's."""
    own_kernel()
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    environment = {**os.environ, **{name: str(tmp_path / place) for name, place in places.items()}}
    environment.pop("FUSIONER_HEADLESS", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        _until(lambda: _answers(f"http://127.0.0.1:{port}/api"), tmp_path / "lab.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        # By SIGTERM the server ends its kernels too.
        server.terminate()
        server.wait(timeout=30)
        log.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _until(ready: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end, f"JupyterLab did not start: {log.read_text()[-2000:]}"
        time.sleep(0.2)


def test_type_slide_and_click(lab: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1150})
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    page.set_default_timeout(PATIENCE)
    page.goto(f"{lab}/doc/tree/look.ipynb")
    page.locator(".jp-Notebook .cm-content").first.click()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.keyboard.press("Control+Enter")
    frames = page.locator(".fusioner-frame img")
    frames.nth(6).wait_for()
    # No ground truth is known: its two panels are not there. No picture is empty, and the still below is hidden.
    assert [frame.is_visible() for frame in frames.all()] == [True] * 3 + [False] * 2 + [True] * 2 + [False] * 2
    assert all(page.evaluate("[...document.querySelectorAll('.fusioner-frame img')].map(img => img.naturalWidth > 0)"))
    page.locator(".jp-RenderedImage img").wait_for(state="hidden")
    assert page.locator(".jp-RenderedImage img").count() == 1
    page.get_by_role("slider", name="Threshold").wait_for()
    line = page.locator(".fusioner-line")
    places = [frame.bounding_box() for frame in page.locator(".fusioner-picture").all()]

    def look(key: int) -> np.ndarray:
        """The pixels of panel ``key`` on the screen, once they stand still."""
        return _steady(lambda: page.locator(".fusioner-frame").nth(key).screenshot())

    def shot(name: str) -> None:
        if target := os.environ.get("FUSIONER_SCREENSHOTS"):
            page.screenshot(path=Path(target) / f"inspector-{name}.png")

    shot("start")
    before = look(2)
    names = page.get_by_label("Names", exact=True)
    names.fill("cat, wall")
    names.press("Enter")
    line.filter(has_text="names=['cat', 'wall']").wait_for()
    page.get_by_label("wall", exact=True).wait_for()
    named = look(2)
    assert (named != before).any()

    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(20):
        slider.press("ArrowRight")
    line.filter(has_text=re.compile(r"threshold=0\.[67]")).wait_for()
    slid = look(2)
    assert (slid != named).any() and (slid == 0).all(-1).mean() > (named == 0).all(-1).mean()

    overlay, alike = look(0), look(6)
    box = page.locator(".fusioner-frame img").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.get_by_text(re.compile(r"Pixel at row 1[45]\d, column 11\d")).wait_for()
    assert page.locator("meter").count() == 2
    assert (look(0) != overlay).any() and (look(6) != alike).any()
    shot("clicked")

    row = int(re.search(r"pixel=\((\d+)", line.inner_text()).group(1))
    page.locator(".fusioner-frame").first.focus()
    page.keyboard.press("ArrowUp")
    line.filter(has_text=f"pixel=({row - 6}, ").wait_for()

    page.get_by_label("wall", exact=True).uncheck()
    line.filter(has_text="off=['wall']").wait_for()
    names.fill("cat, cat")
    names.press("Enter")
    page.get_by_role("alert").filter(has_text="given twice").wait_for()
    shot("mistake")
    page.get_by_role("button", name="Save as PNG").click()
    page.get_by_text("saved inspector-1.png").wait_for()

    page.locator(".fusioner-frame").first.press("Enter")
    large = page.locator(".fusioner-large img")
    page.wait_for_function("document.querySelector('.fusioner-large img').naturalWidth == 451")  # the photo's own
    box = large.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -300)
    page.wait_for_function(
        f"document.querySelector('.fusioner-large img').getBoundingClientRect().width > {box['width']}"
    )
    shot("enlarged")
    page.keyboard.press("Escape")
    large.wait_for(state="detached")

    assert [frame.bounding_box() for frame in page.locator(".fusioner-picture").all()] == places
    page.set_viewport_size({"width": 700, "height": 1150})
    page.wait_for_function("document.querySelector('.fusioner-frame').getBoundingClientRect().width < 400")
    shot("narrow")
    assert page.locator(".jp-OutputArea-output.jp-mod-error, .jp-RenderedText[data-mime-type*=stderr]").count() == 0
    assert [url for url in asked if not url.startswith((lab, "blob:", "data:", lab.replace("http", "ws")))] == []
    page.close()


def test_paint_and_take_back(lab: str, folder: Path, browser: Any, make_notebook: MakeNotebook) -> None:
    learner(chelsea()).save_pretrained(folder / "learner")
    make_notebook(folder / "look.ipynb", CELL.replace('"checkpoint"', '"learner"'))
    page = browser.new_page(viewport={"width": 1280, "height": 1150})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{lab}/doc/tree/look.ipynb")
    page.locator(".jp-Notebook .cm-content").first.click()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.keyboard.press("Control+Enter")
    page.locator(".fusioner-frame img").nth(6).wait_for()
    page.get_by_role("button", name="Brush").click()
    page.get_by_text("paint “cat”").wait_for()
    frame = page.locator(".fusioner-frame").first
    probability = page.locator(".fusioner-frame").nth(1)
    before, heat = _steady(frame.screenshot), _steady(probability.screenshot)
    box = frame.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1500)
    after, warmer = _steady(frame.screenshot), _steady(probability.screenshot)
    assert (after != before).any() and (warmer != heat).any(), "the stroke is drawn, and the answer is another"
    if target := os.environ.get("FUSIONER_SCREENSHOTS"):
        page.screenshot(path=Path(target) / "inspector-painted.png")
    page.get_by_role("button", name="Save strokes").click()
    page.get_by_text("saved 1 painted images").wait_for()
    mask = np.asarray(Image.open(next((folder / "strokes" / "masks").glob("*.png"))))
    rows, columns = np.nonzero(mask == 1)
    assert (
        set(np.unique(mask)) == {1, 255} and columns.min() > 100 and columns.max() < 260 and abs(rows.mean() - 150) < 8
    )
    page.get_by_role("button", name="Undo stroke").click()
    page.wait_for_timeout(1500)
    assert (_steady(probability.screenshot) == heat).all()
    page.close()


def _steady(take: Callable[[], bytes]) -> np.ndarray:
    """A picture on the screen as pixels, once two takes of it agree."""
    last = take()
    for _ in range(40):
        time.sleep(0.15)
        now = take()
        if now == last:
            break
        last = now
    return np.asarray(Image.open(io.BytesIO(last)).convert("RGB"))
