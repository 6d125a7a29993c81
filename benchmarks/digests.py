"""What it costs to know a data set by its content, and what a digest costs beside reading what it guards.

    python benchmarks/digests.py --folder SCRATCH      an empty folder; about 2.5 GB are written there and removed again

files      a data set of ``--files`` files (half pictures of 100 kB, half masks of 4 kB), whose digests are asked for
           four times: nothing in the page cache, all files in the page cache, by a new process with the cache of
           digests, and again in the same process; beside it the old key, the size of every file
shards     stored features read in batches of 16, five times in turn by one new store (as a training of five epochs
           does), with digests and without; from a cold page cache, and from a warm one
weights    a checkpoint of the paper's model and the packaged one loaded; its sha256 and the search for NaN alone

Files are timed in wall time, shards and weights in processor time, which other load does not change; the fastest turn
counts.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from measuring import machine, write_record

from fusionerlib import checkpoints, digests
from fusionerlib.config import RunConfig
from fusionerlib.datasets.scene import Scene
from fusionerlib.encoders.base import TokenMap, VisualTokens
from fusionerlib.features import store
from fusionerlib.models import build

PICTURE, MASK = 100_000, 4_000
"""Bytes of a file of each kind."""
TURNS = 6
ASK = """
import sys, time
from pathlib import Path
from fusionerlib.digests import content_digests
files = [Path(line) for line in Path(sys.argv[1]).read_text().splitlines()]
start = time.perf_counter()
content_digests(files)
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measure and print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    options = parser.parse_args()
    data = options.folder / "data"
    os.environ["XDG_CACHE_HOME"] = str(options.folder / "cache")
    shutil.rmtree(options.folder / "cache", ignore_errors=True)
    try:
        files = write(data, options.files)
        time.sleep(digests.SETTLED / 1e9 + 0.5)
        listing = options.folder / "files.txt"
        listing.write_text("\n".join(map(str, files)), encoding="utf-8")
        row = {"nothing in the page cache": asked(listing, cold=files)}
        row["page cache"] = asked(listing, fresh=options.folder)
        row["cache of digests, a new process"] = asked(listing)
        digests.content_digests(files)
        start = time.perf_counter()
        digests.content_digests(files)
        row["the same process"] = time.perf_counter() - start
        start = time.perf_counter()
        sum(file.stat().st_size for file in files)
        row["sizes alone (what a digest replaces)"] = time.perf_counter() - start
    finally:
        shutil.rmtree(data, ignore_errors=True)
    total = (PICTURE + MASK) * options.files / 2
    for what, seconds in row.items():
        print(f"{what:40}{seconds:8.2f} s   {options.files} files, {total / 1e9:.1f} GB")
    shards, weights = shards_read(options.folder, options.scenes), weights_loaded(options.folder)
    record = {"machine": machine(), "files": options.files, "bytes": total, "seconds": row}
    write_record(options.json, {**record, "shards": shards, "weights": weights})


class Tokens:
    """A tower without weights whose tokens have the size of the packaged one's: 20 x 20 of 432 channels."""

    name, width, stride, multiple, fingerprint = "tokens", 432, 16, 16, "tokens"

    def __call__(self, images: torch.Tensor, *, outside: torch.Tensor | None = None) -> VisualTokens:
        """Patch tokens of RGB images, 0-255."""
        made = torch.randn(len(images), 400, 432, generator=torch.Generator().manual_seed(0))
        return VisualTokens({"last": TokenMap(made, (20, 20), 16, "tokens")}, "last")


def shards_read(folder: Path, count: int) -> dict[str, float]:
    """Seconds of five epochs, and of the first one, with digests and without, cold and warm."""
    root = folder / "store"
    scenes = Noise(count)
    store.FeatureStore(root, encoder=Tokens()).add(scenes, quiet=True)
    files = list(root.rglob("*.safetensors"))
    os.sync()
    seconds: dict[str, float] = {}
    for _ in range(TURNS):
        for cold in (True, False):
            for checked in (True, False):
                stored = store.FeatureStore(root, encoder=Tokens()).add(scenes, quiet=True)
                if not checked:
                    stored.store._shards._compared = {entry.id for entry in stored.entries}
                if cold:
                    forget(files)
                start = time.process_time()
                for epoch in range(5):
                    for first in range(0, count, 16):
                        stored.batch(range(first, min(first + 16, count)))
                    if not epoch:
                        once = time.process_time() - start
                key = f"{'cold' if cold else 'warm'}, {'with' if checked else 'without'} digests"
                whole = time.process_time() - start
                for what, spent in ((f"{key}, first epoch", once), (f"{key}, five epochs", whole)):
                    seconds[what] = min(spent, seconds.get(what, spent))
    for what, spent in seconds.items():
        print(f"{what:45}{spent:8.3f} s   {count} scenes")
    shutil.rmtree(root)
    return seconds


class Noise:
    """``count`` small scenes of random pixels; their tokens do not depend on them."""

    def __init__(self, count: int) -> None:
        self.count, self.fingerprint = count, f"noise{count}"

    def __len__(self) -> int:
        return self.count

    def names(self, index: int) -> tuple[str, ...]:
        """No names."""
        return ()

    def __getitem__(self, index: int) -> Scene:
        image = np.random.default_rng(index).integers(0, 256, (320, 320, 3), dtype=np.uint8)
        return Scene(image=image, labels=image[..., 0] // 16, names=(), key=str(index))


def weights_loaded(folder: Path) -> dict[str, float]:
    """Seconds to load a checkpoint, to hash it, and to look for NaN in it."""
    run = RunConfig.flat(preset="bmvc2022", templates="none")
    model = build(run.fusion, visual_width=512, text_width=512)
    target = folder / "weights"
    checkpoints.save(target, model=model, run=run, trained_names=["cat"])
    file = target / checkpoints.WEIGHTS
    tensors = model.state_dict()
    row = {}
    for what, work in {
        "load": lambda: checkpoints.load(target),
        "its sha256": lambda: digests.sha256_of(file),
        "its search for NaN": lambda: checkpoints.not_finite(tensors),
        "packaged: load": lambda: checkpoints.load(checkpoints.packaged_folder()),
        "packaged: sha256": lambda: digests.sha256_of(checkpoints.packaged_folder() / checkpoints.WEIGHTS),
    }.items():
        spent = []
        for _ in range(5):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
        row[what] = min(spent)
        print(f"{what:45}{row[what]:8.4f} s   {file.stat().st_size / 1e6:.0f} MB")
    shutil.rmtree(target)
    return row


def write(folder: Path, count: int) -> list[Path]:
    """``count`` files of random bytes, half of each kind."""
    made = []
    for kind, size in (("images", PICTURE), ("masks", MASK)):
        (folder / kind).mkdir(parents=True)
        for place in range(count // 2):
            made.append(folder / kind / f"{place:06d}.bin")
            made[-1].write_bytes(os.urandom(size))
    os.sync()
    return made


def asked(listing: Path, *, cold: list[Path] | None = None, fresh: Path | None = None) -> float:
    """Seconds that a new process needs. cold: files to drop from the page cache. fresh: folder of a cache to delete."""
    if cold is not None:
        forget(cold)
    if fresh is not None:
        shutil.rmtree(fresh / "cache", ignore_errors=True)
    done = subprocess.run([sys.executable, "-c", ASK, str(listing)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def forget(files: list[Path]) -> None:
    """Drop ``files`` from the page cache."""
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
