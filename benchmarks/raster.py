"""Rasters by sliding windows: the seams between windows, and seconds and memory of the packaged checkpoint.

    python benchmarks/raster.py                          both
    python benchmarks/raster.py --only large --width 20000 --height 2000

seams  two photos of scikit-image, enlarged, by the packaged checkpoint. A seam is a line between pixels where a window
       begins or ends. step: mean difference of a name's probability across a line; labels: share of the pixels along a
       line whose label differs across it. Both at seams, and at lines 8 pixels or more away from any seam; for the
       paper's stride, two thirds of a window, and for windows side by side
large  a TIFF of WIDTH x HEIGHT pixels, 20 names, in a process of its own: windows a second, and its peak memory, which
       grows with the width alone
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from measuring import machine, write_record
from PIL import Image
from sides import NAMES
from skimage.data import chelsea, rocket

from fusionerlib import Segmenter
from fusionerlib.inference.windows import stride_of

PHOTOS = {"chelsea": (chelsea, ("cat", "wall", "fur")), "rocket": (rocket, ("rocket", "sky", "tower", "lamp"))}
ENLARGED = 3
AWAY = 8
CASES = ["seams", "large"]


def main() -> None:
    """Run the cases that were asked for."""
    options = arguments()
    if options.child:
        child(Path(options.child))
        return
    record: dict[str, Any] = {"machine": machine()}
    if "seams" in options.only:
        record["seams"] = seams()
    if "large" in options.only:
        record["large"] = large(options.width, options.height)
    write_record(options.json, record)


def seams() -> dict[str, Any]:
    """Steps of probabilities and labels at seams and elsewhere."""
    segmenter = Segmenter.load("packaged", sliding=True)
    window = segmenter.size or 0
    found: dict[str, Any] = {}
    for stride in (stride_of(window), window):
        segmenter.stride = stride
        rows = []
        for photo, names in PHOTOS.values():
            small = Image.fromarray(photo())
            image = small.resize((small.width * ENLARGED, small.height * ENLARGED), Image.Resampling.BICUBIC)
            result = segmenter.set_image(image).segment(names)
            rows.append(steps(result.probabilities.numpy(), result.labels, window=window, stride=stride))
        figures = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        found[f"stride {stride}"] = figures
        print(
            f"windows of {window}, stride {stride}: step {figures['step at seams']:.5f} at seams, "
            f"{figures['step elsewhere']:.5f} elsewhere; labels differ at {figures['labels at seams']:.3%} of the "
            f"pixels along seams, {figures['labels elsewhere']:.3%} elsewhere",
            flush=True,
        )
    return found


def steps(probabilities: np.ndarray, labels: np.ndarray, *, window: int, stride: int) -> dict[str, float]:
    """Means over the lines of both axes, at seams and elsewhere."""
    found: dict[str, list[float]] = {"step at seams": [], "step elsewhere": [], "labels at seams": []}
    found["labels elsewhere"] = []
    for axis in (1, 2):
        length = probabilities.shape[axis]
        edges = sorted(
            {e for k in range(length // stride + 1) for e in (k * stride, k * stride + window) if 0 < e < length}
        )
        step = np.abs(np.diff(probabilities, axis=axis)).mean(axis=(0, 3 - axis))
        changed = (np.diff(labels, axis=axis - 1) != 0).mean(axis=2 - axis)
        away = np.array([min(abs(line - edge) for edge in edges) >= AWAY for line in range(1, length)])
        at = np.array(edges) - 1
        found["step at seams"] += step[at].tolist()
        found["step elsewhere"] += step[away].tolist()
        found["labels at seams"] += changed[at].tolist()
        found["labels elsewhere"] += changed[away].tolist()
    return {key: float(np.mean(values)) for key, values in found.items()}


def large(width: int, height: int) -> dict[str, Any]:
    """Seconds and peak memory of a process that segments a large TIFF."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.tif"
        band = np.asarray(Image.fromarray(chelsea()).resize((width, 256), Image.Resampling.BICUBIC))
        image = np.concatenate([band] * -(-height // 256))[:height]
        tifffile.imwrite(file, image, tile=(256, 256), compression="zlib")
        del image
        command = [sys.executable, __file__, "--child", str(file)]
        seconds, memory, windows = map(float, subprocess.check_output(command, text=True).split())
    print(
        f"{width} x {height} pixels, 20 names: {seconds:.0f} s, {windows / seconds:.1f} windows a second, "
        f"{memory / 2**20:.0f} MiB resident at most",
        flush=True,
    )
    return {"width": width, "height": height, "seconds": seconds, "windows": windows, "peak_bytes": memory}


def child(file: Path) -> None:
    """Segment ``file`` and print seconds, peak bytes and the number of windows."""
    segmenter = Segmenter.load("packaged", sliding=True)
    start = time.perf_counter()
    found = segmenter.segment_raster(file, file.with_name("mask.tif"), NAMES[:20], quiet=True)
    seconds = time.perf_counter() - start
    stride, window = segmenter.stride or 1, segmenter.size or 0
    windows = (-(-(found.height - window) // stride) + 1) * (-(-(found.width - window) // stride) + 1)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, windows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--width", type=int, default=20_000, help="of the large raster, in pixels")
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
