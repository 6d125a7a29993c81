"""The inspector in headless Chromium, in a JupyterLab on this machine: typed, slid, clicked, and looked at.

Pictures of it go to the folder in FUSIONER_SCREENSHOTS, if it is set.
"""

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea, coffee

from benchmarks.browser import jupyterlab, open_inspector
from fusionerlib import Segmenter, checkpoints
from fusionerlib.config import RunConfig
from fusionerlib.inspector import inspect
from fusionerlib.inspector.page_maps import DRAWN_BY_PAGE
from fusionerlib.inspector.panels import draw_panel
from fusionerlib.inspector.state import PANELS
from fusionerlib.models import build
from tests.conftest import CHROMIUM, MakeNotebook

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: the extra `workbook`")
pytest.importorskip("playwright", reason="playwright is not installed: the extra `dev`")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

CELL = """from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
from PIL import Image
display(Image.open("cat.png").resize((60, 40)))
inspect(Segmenter.load("checkpoint"), ["cat.png"], names=["cat"])"""
COMPARE = """import numpy as np
from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
from PIL import Image
case = "cat.png", np.asarray(Image.open("labels.png")), ["cat"]
inspect(Segmenter.load("checkpoint"), [case], names=["cat", "wall"], threshold=0.5, beside_threshold=0.45)"""
PIXELS = """place => {
  const canvas = document.querySelectorAll('.fusioner-image')[place];
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return { size: [canvas.width, canvas.height], pixels: Array.from(data) };
}"""
DRAWN_AT_ENTER = """() => { window.drawnAtEnter = new Promise(done => {
  const image = document.querySelectorAll('.fusioner-image')[2];
  document.addEventListener('change', () => done(image.dataset.drawn), { once: true });
}); }"""
PAINT = """import numpy as np
from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
from PIL import Image
case = "coffee.png", np.asarray(Image.open("wood.png")), ["wood"]
inspect(Segmenter.load("packaged"), [case], names=["wood", "cup"])"""


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
    """The address of a JupyterLab that serves ``folder``."""
    with jupyterlab(folder, tmp_path) as address:
        yield address


def test_type_slide_and_click(lab: str, browser: Any) -> None:
    asked: set[str] = set()
    sent: list[str | bytes] = []
    page = open_inspector(browser, f"{lab}/doc/tree/look.ipynb", asked=asked, sent=sent)
    frames = page.locator(".fusioner-image")
    frames.nth(6).wait_for()
    # No ground truth is known: its two panels are not there. No picture is empty, and the still below is hidden.
    assert [frame.is_visible() for frame in frames.all()] == [True] * 3 + [False] * 2 + [True] * 2 + [False] * 2
    assert all(page.evaluate("[...document.querySelectorAll('.fusioner-image')].map(image => image.dataset.drawn > 0)"))
    stills = page.locator(".jp-RenderedImage img")
    stills.nth(1).wait_for(state="hidden")
    assert [still.is_visible() for still in stills.all()] == [True, False], "the cell's own picture stays"
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
    names.press("ControlOrMeta+a")
    names.press_sequentially("cat, w")
    page.wait_for_timeout(3000)
    texts = [frame if isinstance(frame, str) else frame.decode(errors="replace") for frame in sent]
    typing = [text for text in texts if '"typing"' in text]
    assert typing and "cat, w" in typing[-1] and len(typing) <= 2, "told in pauses, not at every key"
    assert "'w'" not in line.inner_text()
    drawn = page.locator(".fusioner-image").nth(2).get_attribute("data-drawn")
    page.evaluate(DRAWN_AT_ENTER)
    names.press("Enter")
    assert int(page.evaluate("window.drawnAtEnter")) == int(drawn) + 1, "by the page, before the kernel answers"
    line.filter(has_text="names=['cat', 'w']").wait_for()
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
    box = page.locator(".fusioner-image").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.get_by_text(re.compile(r"Pixel at row 1[45]\d, column 11\d")).wait_for()
    assert page.locator("meter").count() == 2
    assert (look(0) != overlay).any() and (look(6) != alike).any()
    shot("clicked")

    row = int(re.search(r"pixel=\((\d+)", line.inner_text()).group(1))
    page.locator(".fusioner-frame").first.focus()
    page.keyboard.press("ArrowUp")
    line.filter(has_text=f"pixel=({row - 6}, ").wait_for()

    there = line.inner_text()
    box = page.locator(".fusioner-image").first.bounding_box()
    page.mouse.dblclick(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8)
    page.locator(".fusioner-large img").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_timeout(1500)
    assert line.inner_text() == there, "enlarging does not move the inspected pixel"

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

    assert page.locator(".fusioner-stopped").count() == 0
    token = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "_xsrf")
    for kernel in page.request.get(f"{lab}/api/kernels").json():
        page.request.delete(f"{lab}/api/kernels/{kernel['id']}", headers={"X-XSRFToken": token})
    page.get_by_role("alert").filter(has_text="has stopped").wait_for()
    assert frames.first.is_visible() and line.is_visible()
    shot("stopped")
    page.close()


def test_the_page_draws_the_panels_of_the_files(
    lab: str, folder: Path, browser: Any, make_notebook: MakeNotebook
) -> None:
    """Each panel that the page draws has the pixels of ``draw_panel``, also after a slider that only the page reads."""
    rows, columns = np.ogrid[:300, :451]
    labels = ((rows - 150) ** 2 + (columns - 200) ** 2 < 120**2).astype(np.uint8)
    labels[:40, :60] = 255
    Image.fromarray(labels).save(folder / "labels.png")
    make_notebook(folder / "look.ipynb", COMPARE)
    page = open_inspector(browser, f"{lab}/doc/tree/look.ipynb")
    segmenter = Segmenter.load(folder / "checkpoint")
    case = folder / "cat.png", labels, ["cat"]
    state = inspect(segmenter, [case], names=["cat", "wall"], threshold=0.5, beside_threshold=0.45).state

    def compare() -> None:
        for key in DRAWN_BY_PAGE:
            expected, _ = draw_panel(state, key)
            height, width = expected.shape[:2]
            found = page.evaluate(PIXELS, PANELS.index(key))
            assert found["size"] == [width, height], key
            shown = np.array(found["pixels"], np.uint8).reshape(height, width, 4)
            off = np.abs(shown[..., :3].astype(int) - expected).max(-1)
            # One level of rounding; a probability within 1/65535 of the threshold may fall to either side.
            assert (off > 1).mean() < 1e-3, f"{key}: {(off > 1).mean():.2%} of the pixels differ"

    page.wait_for_function("document.querySelectorAll('.fusioner-image')[8].dataset.drawn > 0")
    compare()
    for name, presses in (("Threshold", 3), ("Opacity", 4)):
        slider = page.get_by_role("slider", name=name)
        slider.focus()
        for _ in range(presses):
            slider.press("ArrowLeft")
    page.locator(".fusioner-line").filter(has_text="threshold=0.47, opacity=0.35").wait_for()
    page.wait_for_timeout(300)
    state.set_threshold(0.47)
    state.set_opacity(0.35)
    compare()
    page.close()


def test_twenty_painted_pixels_mend_a_missed_class_and_are_taken_back(
    lab: str, folder: Path, browser: Any, make_notebook: MakeNotebook
) -> None:
    """The packaged checkpoint does not know wood: all around the saucer of scikit-image's coffee is a table of it."""
    rows, columns = np.ogrid[:400, :600]
    wood = ((rows - 205) / 165) ** 2 + ((columns - 300) / 215) ** 2 > 1
    Image.fromarray(coffee()).save(folder / "coffee.png")
    Image.fromarray(wood.astype(np.uint8)).save(folder / "wood.png")
    make_notebook(folder / "look.ipynb", PAINT)
    page = open_inspector(browser, f"{lab}/doc/tree/look.ipynb")
    told = page.locator(".fusioner-caption").nth(4)

    def iou() -> float:
        found = re.match(r"IoU of “wood” ([\d.]+), missed", told.inner_text())
        assert found is not None, told.inner_text()
        return float(found[1])

    frame, probability = (page.locator(".fusioner-frame").nth(place) for place in (0, 1))
    before, heat, missed = _steady(frame.screenshot), _steady(probability.screenshot), iou()
    assert missed < 0.05
    page.get_by_role("button", name="Brush").click()
    page.get_by_text("paint “wood”").wait_for()
    page.get_by_role("slider", name="Brush size").press("Home")
    box = frame.bounding_box()
    start = box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.2
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 2, start[1], steps=2)
    page.mouse.up()
    page.locator(".fusioner-caption").filter(has_text=re.compile(r"IoU of “wood” 0\.[^0]")).wait_for()
    assert iou() > missed + 0.4
    inked = "[...document.querySelectorAll('.fusioner-ink')].some(ink => ink.width && ink.getContext('2d')"
    inked += ".getImageData(0, 0, ink.width, ink.height).data.some(Boolean))"
    page.wait_for_function(f"!({inked})")
    assert (_steady(frame.screenshot) != before).any() and (_steady(probability.screenshot) != heat).any()
    if target := os.environ.get("FUSIONER_SCREENSHOTS"):
        page.screenshot(path=Path(target) / "inspector-painted.png")
    page.get_by_role("button", name="Save strokes").click()
    page.get_by_text("saved 1 painted images").wait_for()
    mask = np.asarray(Image.open(next((folder / "strokes" / "masks").glob("*.png"))))
    assert set(np.unique(mask)) == {1, 255} and 10 <= (mask == 1).sum() <= 60 and wood[mask == 1].all()
    page.get_by_role("button", name="Undo stroke").click()
    page.locator(".fusioner-caption").filter(has_text=f"IoU of “wood” {missed:.2f}").wait_for()
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
