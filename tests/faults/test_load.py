"""Load: many images through features, training and evaluation, many names, and large photos, in bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusionerlib.config import RunConfig
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.store import FeatureStore
from fusionerlib.training.batch_sources import StoredBatchSource
from fusionerlib.training.loop import train
from tests.conftest import ROOT
from tests.inference.test_segmenter import MeanColours, text_cache
from tests.inference.test_soak import resident
from tests.shapes import COLOURS, Shapes

IMAGES = 20_000
GROWTH = 32 * 2**20
"""Most bytes between a quarter and all of the images: 2 kB an image. An image with its labels takes 16 kB, its tokens
and labels in the store 4 kB."""


class Watched(Shapes):
    """Generated scenes that note the memory after a quarter of them, and at the last."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.memory: dict[int, int] = {}

    def __getitem__(self, index: int):
        if index + 1 in (self.count // 4, self.count):
            self.memory[index + 1] = resident()
        return super().__getitem__(index)


class Toy(MeanColours):
    """The toy tower, which keeps nothing of what it has seen."""

    fingerprint = "mean-colours-soak"

    def __call__(self, images, *, outside=None):
        self.seen.clear()
        return super().__call__(images, outside=outside)


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from Linux's /proc")
def test_20_000_images_take_no_more_memory_than_5_000(tmp_path: Path) -> None:
    scenes = Watched(IMAGES)
    stored = FeatureStore(tmp_path / "features", encoder=Toy()).add(scenes, quiet=True)
    features = scenes.memory[IMAGES] - scenes.memory[IMAGES // 4]

    small = {"width": 24, "heads": 2, "depth": 1, "decoder_width": 8, "warmup": 0, "templates": "none"}
    run = RunConfig.flat(**small, preset="small", steps=800, batch=25, size=64, validate_every=200)
    words, memory = text_cache(), []
    model, history = train(
        run=run, source=StoredBatchSource(stored), text_cache=words, directory=tmp_path / "training", quiet=True,
        validate=lambda model: memory.append(resident()) or {},
    )  # fmt: skip
    assert len(history) == 800 and len(memory) >= 4
    training = memory[-1] - memory[0]

    names, after = tuple(f"{colour} box" for colour in COLOURS), []
    for part in range(4):
        queries = [Query(index, names) for index in range(part * IMAGES // 4, (part + 1) * IMAGES // 4)]
        evaluate(model, stored, words, queries, quiet=True)
        after.append(resident())
    evaluation = after[-1] - after[0]
    grown = {"features": features, "training": training, "evaluation": evaluation}
    print({phase: f"{size / 2**20:+.1f} MiB" for phase, size in grown.items()})
    assert max(grown.values()) < GROWTH, grown


MANY_NAMES = """
import time
from fusionerlib.inference.requests import checked_names
checked_names(["cat"])
def seconds(count):
    names = [f"thing number {number}" for number in range(count)]
    began = time.process_time()
    assert checked_names(names) == tuple(names)
    return time.process_time() - began
print(min(seconds(20_000) for _ in range(2)) / min(seconds(2_000) for _ in range(3)))
"""


def test_ten_times_as_many_names_take_about_ten_times_as_long_to_check() -> None:
    # A check of every name against every other would take a hundred times as long. In a process of its own: the tests
    # check every call's types, which takes longer than the work.
    output = subprocess.check_output(
        [sys.executable, "-c", MANY_NAMES], text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert float(output) < 30


LARGE = """
import re, time
from pathlib import Path
from PIL import Image
from skimage.data import coffee
from fusionerlib import Segmenter
names = {names!r}
segmenter = Segmenter.load("packaged")
began = time.process_time()
result = segmenter.set_image(Image.fromarray(coffee()).resize((4000, 3000))).segment(names)
shares = [row["share"] for row in result.table()]
# Not ru_maxrss, which a process inherits from the one that started it.
most = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(time.process_time() - began, most, sum(shares) > 0)
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_twelve_megapixels_with_50_names() -> None:
    from fusionerlib import checkpoints

    names = list(checkpoints.load(checkpoints.packaged_folder()).trained_names)[:50]
    assert len(names) == 50
    output = subprocess.check_output(
        [sys.executable, "-c", LARGE.format(names=names)], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds, memory, found = output.split()
    print(f"{float(seconds):.1f} CPU seconds, {float(memory) / 2**20:.0f} MiB at most")
    assert found == "True" and float(seconds) < 10 and float(memory) < 1000 * 2**20
