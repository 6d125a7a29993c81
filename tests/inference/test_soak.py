"""Long runs, outside `make test`: `make soak`."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionerlib.inference import batch, requests
from tests.inference.test_segmenter import make

WARM, LAST = 1000, 5000
"""Images after which memory is compared."""
GROWTH = 4 * 2**20
"""Most bytes between the two: 1 kB an image. An image of this test takes 12 kB, its labels and logits 100 kB more."""


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "0.png")
    files = [folder / "0.png"]
    for number in range(1, LAST):
        files.append(folder / f"{number}.png")
        os.link(files[0], files[-1])
    settings = requests.Settings(names=("cat", "grass", "sky"), formats=requests.FORMATS)
    left = batch.remaining(tmp_path / "out", files, settings)
    records = tmp_path / "out" / "records" / "part-1-of-1.jsonl"
    memory, segmenter = {}, make()
    for done, (_, reason, _) in enumerate(
        batch._predicted(tmp_path / "out", segmenter, left, settings, records), start=1
    ):
        segmenter.visual.seen.clear()  # the toy tower remembers what it was given
        assert not reason
        if done % WARM == 0:
            memory[done] = resident()
    print({count: f"{size / 2**20:.1f} MiB" for count, size in memory.items()})
    assert memory[LAST] - memory[WARM] < GROWTH
    batch._collect(tmp_path / "out", files[:WARM], settings)  # imports pyarrow, which takes tens of MB itself
    before = resident()
    batch._collect(tmp_path / "out", files, settings)
    assert resident() - before < GROWTH
