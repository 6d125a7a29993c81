"""The rate of loading with the paper's augmentation, compared with Pillow alone; and its memory.

    python benchmarks/data.py --root VOC      VOC: the folder that holds VOCdevkit, as for `dataset = pascal`

All sides run in one process, in turns, over the same images:
bare       Pillow alone: decode the image to RGB and resize it (bilinear), decode the mask and resize it (nearest); on
           one core
ours       the library's loader without workers: read and check the scene, augment, stack; on the same core
workers    the library's loader with ``--workers`` processes, on all cores
The one-core sides are timed in processor time, which other load does not change; the workers in wall time. The fastest
turn counts. ``ratio`` is the rate of ours divided by that of bare; the median of the turns' ratios is printed too.
Memory is that of this process and its workers after each epoch.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from measuring import Run, fastest, machine, paired, ratio, resident, write_record
from PIL import Image

from fusionerlib.datasets.augment import PRESETS
from fusionerlib.datasets.pascal import Pascal5i
from fusionerlib.datasets.transforms import Subset
from fusionerlib.training.batch_sources import AugmentedScenes, EpochKeys, Loader


def main() -> None:
    """Measure the rates, then memory by epoch."""
    options = arguments()
    torch.set_num_threads(1)
    voc = Pascal5i(options.root, fold=0, split="train")
    count = min(options.images, len(voc))
    scenes = Subset(voc, [place * len(voc) // count for place in range(count)])
    files = image_files(options.root, [voc[index].key for index in scenes.indices])
    views = AugmentedScenes(scenes, augmentation=PRESETS[options.augmentation], size=options.size, seed=0)
    keys = {side: EpochKeys(count, batch=options.batch, seed=0) for side in ("ours", "workers")}
    loaders = {
        "ours": Loader(views, keys["ours"]),
        "workers": Loader(views, keys["workers"], workers=options.workers),
    }
    cores = os.sched_getaffinity(0)
    sides: dict[str, Run] = {
        "bare": on({min(cores)}, lambda: [bare(image, mask, options.size) for image, mask in files]),
        "ours": on({min(cores)}, lambda: sum(1 for _ in loaders["ours"])),
        "workers": on(cores, lambda: sum(1 for _ in loaders["workers"])),
    }
    print(f"{count} images a turn, {options.turns} turns, {options.size} px, {options.augmentation}")
    # The workers are started by the first run, which may use all cores and fills the page cache.
    seconds = paired(
        {side: sides[side] for side in ("workers", "bare", "ours")},
        options.turns,
        clocks={"bare": time.process_time, "ours": time.process_time},
    )
    rates = {side: count / spent for side, spent in fastest(seconds).items()}
    ratios = ratio(seconds, "bare", "ours")
    for side, rate in rates.items():
        print(f"{side:8}{rate:9.0f} images/s")
    print(f"ratio {ratios['fastest']:.3f} a core (fastest turns), {ratios['median']:.3f} (median)")
    memory = []
    for epoch in range(options.epochs):
        for side in ("ours", "workers"):
            sides[side]()
        memory.append(resident(children=True) / 1e6)
        print(f"memory after epoch {epoch + 1}: {memory[-1]:.0f} MB, workers included")
    row = {**rates, "ratio": ratios["fastest"], "median_ratio": ratios["median"]}
    write_record(options.json, {"machine": machine(), **row, "memory": memory, "seconds": seconds})


def on(cores: set[int], run: Run) -> Run:
    """``run`` with this process bound to ``cores``."""

    def pinned() -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        run()
        os.sched_setaffinity(0, before)

    return pinned


def bare(image: Path, mask: Path, size: int) -> None:
    """The least that any loader must do, in Pillow alone."""
    with Image.open(image) as opened:
        opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    with Image.open(mask) as opened:
        opened.resize((size, size), Image.Resampling.NEAREST)


def image_files(root: Path, keys: list[str]) -> list[tuple[Path, Path]]:
    """The image and the mask file of each key, searched under ``root``."""
    images, masks = ({file.stem: file for file in root.rglob(f"{folder}/*.{kind}")} for folder, kind in LAYOUT)
    return [(images[key], masks[key]) for key in keys]


LAYOUT = (("JPEGImages", "jpg"), ("SegmentationClassAug", "png"))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds VOCdevkit")
    parser.add_argument("--images", type=int, default=400, help="images a turn")
    parser.add_argument("--turns", type=int, default=7, help="turns of each side; the fastest counts")
    parser.add_argument("--epochs", type=int, default=6, help="epochs after which memory is read")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--augmentation", choices=list(PRESETS), default="pascal")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
