"""The latency of the mask inspector: from a change to its encoded pictures, on a photo of 500 x 375 pixels.

    python benchmarks/inspector.py                     the packaged checkpoint
    python benchmarks/inspector.py --checkpoint demo --names cat sofa person
    python benchmarks/inspector.py --no-browser        the kernel alone

Targets on a quiet machine with 2 cores: 50 ms for a slider, 60 ms for a click, 100 ms for a word, 300 ms for a stroke.
Each row is the median of ``--turns`` changes in the kernel: state, changed panels, their encoding, controls; then its
processor time, which other work on the machine changes less. The rows "in the browser" are the time from the event of
a key or the mouse until Chromium has the new picture of the panel that shows the change, in a JupyterLab of this
machine. A word is typed, and Enter follows after 0.3 s, in which the kernel prepares the answer; "word, no pause" is
Enter right after the last letter. The machine's load (mean length of the queue of processes in the last minute) is
part of the record.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from browser import TIMED, jupyterlab, open_inspector
from measuring import machine, write_record
from PIL import Image

from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
from fusionerlib.inspector.export import encode_panel, export_png
from fusionerlib.inspector.panels import draw_panel
from fusionerlib.inspector.state import PANELS

TARGETS = {"threshold": 50, "opacity": 50, "temperature": 50, "click": 60, "word": 100, "switch": 100, "stroke": 300}
"""Milliseconds."""
CELL = """from benchmarks.inspector import photo
from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
inspect(Segmenter.load({checkpoint!r}), [photo()], names={names!r})"""
WORDS = ("dog", "sofa", "bicycle", "tree", "window", "car", "bottle", "horse", "chair", "bird")
"""Names that are added to the given ones, one a turn; each is new to the text encoder."""


def main() -> None:
    """Measure each kind of change."""
    options = arguments()
    app = inspect(Segmenter.load(options.checkpoint), [photo(), photo()[:, ::-1]], names=options.names)
    controls, state, names = app.controls, app.state, list(options.names)
    height, width = state.photo.shape[:2]

    def word(turn: int) -> None:
        controls.names.value = ", ".join([*names, f"{WORDS[turn % len(WORDS)]} {turn}"])

    def switch(turn: int) -> None:
        controls.switches[0].value = bool(turn % 2)

    def click(turn: int) -> None:
        app.pictures["overlay"]._handle_custom_msg({"click": [turn / options.turns, 0.5]}, [])

    def stroke(turn: int) -> None:
        controls.tool.value = "brush"
        row = 0.2 + 0.6 * turn / options.turns
        app.pictures["overlay"]._handle_custom_msg({"stroke": [[row, 0.4], [row, 0.5]]}, [])
        controls.tool.value = "look"

    def set_image(turn: int) -> None:
        controls.image.value = (turn + 1) % 2

    def everything(turn: int) -> None:
        for key in PANELS:
            encode_panel(draw_panel(state, key)[0], key)

    kinds: dict[str, Callable[[int], object]] = {
        "threshold": lambda turn: setattr(controls.threshold, "value", 0.2 + 0.6 * turn / options.turns),
        "opacity": lambda turn: setattr(controls.opacity, "value", 0.9 * turn / options.turns),
        "temperature": lambda turn: setattr(controls.temperature, "value", 0.5 + turn / options.turns),
        "word": word,
        "switch": switch,
        "click": click,
        **({"stroke": stroke} if state.segmenter.example_names else {}),  # else the model can't learn from examples
        "image": set_image,
        "still": lambda turn: export_png(state),
        "all panels": everything,
    }
    print(f"{torch.get_num_threads()} threads, {width} x {height} pixels, {len(names)} names, {options.checkpoint}")
    rows = {kind: measured(change, turns=options.turns) for kind, change in kinds.items()}
    if options.browser:
        browser = in_browser(options.checkpoint, options.names, turns=options.turns, learns="stroke" in kinds)
        rows |= {f"{kind}, in the browser": row for kind, row in browser.items()}
    for kind, row in rows.items():
        target = TARGETS.get(kind.partition(",")[0])
        told = f"   processor {row['processor']:7.1f} ms" if "processor" in row else 26 * " "
        told += f"   target {target} ms" if target else ""
        print(f"{kind:24} median {row['median']:7.1f} ms   slowest {row['slowest']:7.1f} ms{told}")
    load = os.getloadavg()[0]
    print(f"load {load:.1f}")
    write_record(options.json, {"machine": machine(), "load": load, **rows})


def measured(change: Callable[[int], object], *, turns: int) -> dict[str, float]:
    """Milliseconds of ``change(turn)`` over ``turns`` turns, after one that is not counted."""
    change(turns - 1)
    spent, computed = [], []
    for turn in range(turns):
        start, began = time.perf_counter(), time.process_time()
        change(turn)
        spent.append(1000 * (time.perf_counter() - start))
        computed.append(1000 * (time.process_time() - began))
    return {"median": statistics.median(spent), "slowest": max(spent), "processor": statistics.median(computed)}


def in_browser(checkpoint: str, names: list[str], *, turns: int, learns: bool) -> dict[str, dict[str, float]]:
    """Milliseconds from the event in Chromium until it shows the new picture, over ``turns`` turns a kind.

    learns: whether the model can learn from strokes, so that they can be measured.
    """
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("there is no Chromium on this machine: install it, or measure the kernel alone (--no-browser)")
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    source = CELL.format(checkpoint=checkpoint if checkpoint == "packaged" else str(Path(checkpoint)), names=names)
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": source}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        served = Path(scratch) / "served"
        served.mkdir()
        (served / "look.ipynb").write_text(json.dumps(notebook))
        with jupyterlab(served, Path(scratch)) as address:
            window = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = open_inspector(window, f"{address}/doc/tree/look.ipynb")
            rows = _timed_kinds(page, names, turns=turns, learns=learns)
            window.close()
    return rows


def _timed_kinds(page: Any, names: list[str], *, turns: int, learns: bool) -> dict[str, dict[str, float]]:
    box = page.locator(".fusioner-image").first.bounding_box()

    def at(down: float, right: float) -> tuple[float, float]:
        return box["x"] + box["width"] * right, box["y"] + box["height"] * down

    def slide(turn: int) -> None:
        page.keyboard.press("PageUp" if turn < turns // 2 else "PageDown")

    def word(turn: int) -> None:
        page.keyboard.press("Enter")

    def word_at_once(turn: int) -> None:
        page.keyboard.type("s")
        page.keyboard.press("Enter")

    def click(turn: int) -> None:
        page.mouse.click(*at(0.2 + 0.6 * turn / turns, 0.5))

    def stroke(turn: int) -> None:
        page.mouse.move(*at(0.2 + 0.6 * turn / turns, 0.4))
        page.mouse.down()
        page.mouse.move(*at(0.2 + 0.6 * turn / turns, 0.5), steps=5)
        page.mouse.up()

    def type_word(turn: int) -> None:
        field = page.get_by_label("Names", exact=True)
        field.press("ControlOrMeta+a")
        # Typed: `fill` would send the change before Enter. A new name that the photo shows, so that its panel changes.
        field.press_sequentially(", ".join([f"{names[0]} {turn}", *names[1:]]))

    def hold_slider(turn: int) -> None:
        page.get_by_role("slider", name="Threshold").focus()

    def hold_brush(turn: int) -> None:
        page.get_by_role("button", name="Brush").click()

    # The event, the panel that shows the change (0 masks, 1 probability, 6 similarity), what is done before it, and
    # what makes it. The page draws the cross of a click by itself; the similarity comes from the kernel.
    kinds = {"threshold": ("keydown", 0, hold_slider, slide), "word": ("keydown", 1, type_word, word)}
    kinds["word, no pause"] = ("change", 1, type_word, word_at_once)
    kinds["click"], kinds["click, similarity"] = ("click", 0, None, click), ("click", 6, None, click)
    kinds |= {"stroke": ("pointerup", 1, hold_brush, stroke)} if learns else {}
    rows = {}
    for kind, (event, panel, before, act) in kinds.items():
        spent = []
        for turn in range(turns):
            if before is not None:
                before(turn)
            page.wait_for_timeout(300)  # what the turn before changed has arrived
            page.evaluate(TIMED, [event, panel])
            act(turn)
            spent.append(page.evaluate("window.waited"))
        answered = [float(waited) for waited in spent[1:] if waited is not None]
        if 2 * len(answered) < len(spent):
            raise SystemExit(f"{kind}: {len(answered)} of {len(spent)} changes were answered by a new picture")
        rows[kind] = {"median": statistics.median(answered), "slowest": max(answered)}
        print(f"{kind}, in the browser: {rows[kind]['median']:.0f} ms", flush=True)
    return rows


def photo() -> np.ndarray:
    """Scikit-image's cat at 500 x 375 pixels."""
    from skimage.data import chelsea

    return np.array(Image.fromarray(chelsea()).resize((500, 375)))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="packaged")
    parser.add_argument("--names", nargs="+", default=["cat", "cup", "person"])
    parser.add_argument("--turns", type=int, default=20, help="changes of each kind; their median counts")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="measure the kernel alone")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
