"""Images a second of ``predict``, against what its parts allow.

    python benchmarks/predict.py                    320 pixels, 20 known names
    python benchmarks/predict.py --images 64 --turns 5

predict   ``predict_into``: index masks of a folder of photographs, with decoding, model and writing at the same time
parts     decoding, tower, fusion (the best name of each pixel included) and writing, each alone in a loop over the same
          images, in CPU seconds (all threads); their sum divided by the cores is the least time that predict can take

Parts and predict run in turns in one process.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import fastest, machine, paired, write_record
from PIL import Image
from sides import NAMES
from skimage.data import chelsea, coffee

from fusionerlib import Segmenter
from fusionerlib.images import read_image
from fusionerlib.inference import batch, formats, requests

TARGET = 0.9
"""Of the rate that the parts allow."""


def main() -> None:
    """Time the parts and the whole."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        record = measured(photos(Path(folder), options.images), Path(folder), turns=options.turns)
    write_record(options.json, {"machine": machine(), "images": options.images, **record})


def photos(folder: Path, count: int) -> list[Path]:
    """``count`` JPEG files of 500x375 pixels: two photographs in turn, each shifted by some pixels."""
    files = []
    for number in range(count):
        picture = Image.fromarray((chelsea, coffee)[number % 2]()).resize((500, 375))
        files.append(folder / f"{number:05}.jpg")
        Image.fromarray(np.roll(np.array(picture), number, axis=1)).save(files[-1], quality=90)
    return files


def measured(files: Sequence[Path], folder: Path, *, turns: int) -> dict[str, Any]:
    """Seconds of predict, CPU seconds of its parts, and the rates that they come to."""
    settings = requests.Settings(names=tuple(NAMES), formats=("index",), images="none")
    segmenter = Segmenter.load("packaged")
    segmenter.text_tokens(NAMES)
    pixels = [read_image(file) for file in files]
    results = [segmenter.set_image(image).segment(NAMES) for image in pixels]
    target, outputs = folder / "bare.png", iter(range(10**6))

    def tower() -> None:
        for image in pixels:
            segmenter.set_image(image)

    def fusion() -> None:
        for _ in files:
            segmenter.segment(NAMES)

    def writing() -> None:
        for result in results:
            fresh = result.at(result.threshold)  # its labels are not worked out yet
            formats.table(fresh)
            target.write_bytes(formats.index_png(fresh.labels))

    def whole() -> None:
        batch.predict_into(folder / f"out-{next(outputs)}", segmenter, files, settings, quiet=True)

    parts = {"decoding": lambda: [read_image(file) for file in files], "tower": tower}
    parts |= {"fusion": fusion, "writing": writing}
    seconds = paired({**parts, "predict": whole}, turns, clocks=dict.fromkeys(parts, time.process_time))
    best, count, cores = fastest(seconds), len(files), machine()["cores"]
    for part in parts:
        print(f"{part:10}{1e3 * best[part] / count:8.1f} ms of CPU time an image")
    total = sum(best[part] for part in parts)
    allowed, reached = count * cores / total, count / best["predict"]
    tower_share, tower_rate = best["tower"] / total, count * cores / best["tower"]
    print(f"the parts allow {allowed:.2f} images/s on {cores} cores; the tower alone takes {tower_share:.0%} of them")
    print(f"predict: {reached:.2f} images/s, {reached / allowed:.0%} of what they allow; target {TARGET:.0%}")
    print(f"  {reached / tower_rate:.0%} of what the tower alone allows ({tower_rate:.2f} images/s)", flush=True)
    rates = {"allowed": allowed, "predict": reached, "tower": tower_rate}
    return {"seconds": seconds, "images_per_second": rates, "of_allowed": reached / allowed, "tower_share": tower_share}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3, help="turns of each side; the fastest counts")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's default")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
