"""The latency of the mask inspector: from a change to its encoded pictures, on a photo of 500 x 375 pixels.

    python benchmarks/inspector.py                     the packaged checkpoint
    python benchmarks/inspector.py --checkpoint demo --names cat sofa person

Targets on 2 cores: 50 ms for a slider, 100 ms for a word. Each row is the median of ``--turns`` changes in the kernel:
state, changed panels, their encoding, controls. The last row draws every panel.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import machine, write_record
from PIL import Image

from fusionerlib import Segmenter
from fusionerlib.inspector import inspect
from fusionerlib.inspector.export import encode_panel, export_png
from fusionerlib.inspector.panels import draw_panel
from fusionerlib.inspector.state import PANELS

TARGETS = {"threshold": 50, "opacity": 50, "temperature": 50, "word": 100, "switch": 100}
"""Milliseconds."""
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
        "image": set_image,
        "still": lambda turn: export_png(state),
        "all panels": everything,
    }
    print(f"{torch.get_num_threads()} threads, {width} x {height} pixels, {len(names)} names, {options.checkpoint}")
    rows = {kind: measured(change, turns=options.turns) for kind, change in kinds.items()}
    for kind, row in rows.items():
        target = f"target {TARGETS[kind]} ms" if kind in TARGETS else ""
        print(f"{kind:12} median {row['median']:7.1f} ms   slowest {row['slowest']:7.1f} ms   {target}")
    write_record(options.json, {"machine": machine(), **rows})


def measured(change: Callable[[int], object], *, turns: int) -> dict[str, float]:
    """Milliseconds of ``change(turn)`` over ``turns`` turns, after one that is not counted."""
    change(turns - 1)
    spent = []
    for turn in range(turns):
        start = time.perf_counter()
        change(turn)
        spent.append(1000 * (time.perf_counter() - start))
    return {"median": statistics.median(spent), "slowest": max(spent)}


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
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
