"""The rates of the feature store, compared with encoder, disk and memory alone; and the cost of int8 in mIoU.

    python benchmarks/features.py                                      speed, with random images
    python benchmarks/features.py --checkpoint RUN/checkpoint --root VOC    and mIoU with either number format

All sides run in turns in one process on the same threads; the fastest turn counts:
tower      images through the visual encoder alone, and through the store: open, hash, compute, convert, write to disk
write      one shard by the store, and a plain file of the same bytes; both with fsync before the rename
cold read  the store opened and read in batches without the page cache, and the bytes of its shards alone
warm read  batches of float32 tokens and labels from the store, and copies of the same tensors in memory
A ratio is the store's rate divided by the other side's. int8 reads fewer bytes and needs more arithmetic.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Run, ceilings, disk, fastest, forget, machine, paired, ratio, write_plain, write_record

from fusionerlib.datasets.scene import Scene
from fusionerlib.datasets.sets import Benchmark
from fusionerlib.datasets.transforms import Subset
from fusionerlib.encoders.registry import load_visual
from fusionerlib.evaluation.evaluator import Evaluator
from fusionerlib.features.context import RunContext
from fusionerlib.features.number_formats import FORMATS
from fusionerlib.features.store import BATCH, FeatureStore, Shards, StoredScenes


def main() -> None:
    """Measure the rates of each number format, then mIoU if a checkpoint and data are given."""
    options = arguments()
    described = machine(options.device)
    print(f"{described['processor']}, {described['threads']} threads, device {options.device}, {options.size} px")
    encoder = load_visual(options.encoder, tokens=options.tokens, device=options.device)
    scenes = Noise(options.images, size=options.size)
    record: dict[str, Any] = {"machine": described, "images": len(scenes), "size": options.size}
    record |= {"encoder": encoder.name, "tokens": options.tokens, "width": encoder.width, "formats": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        record["ceilings"] = ceilings() | disk(folder)
        filled = {kind: partial(fill, folder / f"tower-{kind}", encoder, scenes, kind) for kind in FORMATS}
        cleared = {kind: partial(shutil.rmtree, folder / f"tower-{kind}", ignore_errors=True) for kind in FORMATS}
        sides: dict[str, Run] = {"bare": partial(bare, encoder, scenes), **filled}
        tower = paired(sides, options.turns, device=options.device, before=cleared)
        rates = {side: len(scenes) / spent for side, spent in fastest(tower).items()}
        print(f"tower      {rates['bare']:9.1f} images/s alone")
        record["tower"] = {"seconds": tower, "images_per_second": rates}
        for kind in FORMATS:
            stored = fill(folder / f"tower-{kind}", encoder, scenes, kind)
            row = {"image_bytes": stored.image_bytes, **throughput(stored, scenes, folder / kind, options.turns)}
            row["tower"] = {"store": rates[kind], "other": rates["bare"], **ratio(tower, "bare", kind)}
            record["formats"][kind] = row
            show(kind, row)
    record["miou"] = quality(options)
    write_record(options.json, record)


class Noise:
    """``count`` scenes of random pixels in memory."""

    def __init__(self, count: int, *, size: int) -> None:
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        self.labels, self.fingerprint = np.zeros((size, size), dtype=np.uint8), f"noise{count}-{size}"

    def __len__(self) -> int:
        return len(self.images)

    def names(self, index: int) -> tuple[str, ...]:
        """No names."""
        return ()

    def __getitem__(self, index: int) -> Scene:
        return Scene(image=self.images[index], labels=self.labels, names=(), key=str(index))


def bare(encoder: Any, scenes: Noise) -> None:
    """The visual encoder alone, in the store's batches."""
    for batch in batches(len(scenes)):
        encoder(torch.from_numpy(scenes.images[batch.start : batch.stop]).permute(0, 3, 1, 2))


def fill(folder: Path, encoder: Any, scenes: Noise, kind: str) -> StoredScenes:
    """``scenes`` in the store in ``folder``; features that are missing are computed."""
    return FeatureStore(folder, encoder=encoder, number_format=kind).add(scenes, quiet=True)


def throughput(stored: StoredScenes, scenes: Noise, folder: Path, turns: int) -> dict[str, dict[str, float]]:
    """MB/s of the store and of what it is compared with, and their ratio, for all scenes of ``stored``.

    folder: gets a copy of the store that no process has mapped into memory.
    """
    tensors = {
        f"{entry.id}.{part}": values.clone()
        for entry in stored.entries
        for part, values in stored.store.stored(entry).items()
    }
    written = Shards(folder / "written")
    written.write(tensors)
    data = b"".join(file.read_bytes() for file in written.folder.iterdir())
    root, kind = folder / "copied", stored.store.folder.name.rsplit("-", 1)[-1]
    copied = Path(shutil.copytree(stored.store.folder, root / stored.store.folder.name))
    parts = batches(len(stored))
    tokens, labels = stored.batch(range(len(stored)))
    runs: dict[str, tuple[Run, Run, int]] = {
        "write": (partial(written.write, tensors), partial(write_plain, folder / "plain.bin", data), len(data)),
        "cold read": (
            lambda: read(fill(root, stored.store.encoder, scenes, kind)),
            lambda: [file.read_bytes() for file in copied.glob("*.safetensors")],
            len(data),
        ),
        "warm read": (
            partial(read, stored),
            lambda: [
                (tokens[part.start : part.stop].clone(), labels[part.start : part.stop].clone()) for part in parts
            ],
            tokens.nbytes + labels.nbytes,
        ),
    }
    found = {}
    for part, (ours, other, size) in runs.items():
        cold = {side: partial(forget_all, copied) for side in ("store", "other")} if part == "cold read" else {}
        seconds = paired({"store": ours, "other": other}, turns, before=cold)
        rates = {side: size / 1e6 / spent for side, spent in fastest(seconds).items()}
        found[part] = {**rates, **ratio(seconds, "other", "store")}
    return found


def read(stored: StoredScenes) -> None:
    """Read all of ``stored`` in batches."""
    for part in batches(len(stored)):
        stored.batch(part)


def batches(count: int) -> list[range]:
    """The indices of ``count`` scenes in the store's batches."""
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def forget_all(folder: Path) -> None:
    """Drop the pages of all shards in ``folder`` from the page cache."""
    for file in folder.glob("*.safetensors"):
        forget(file)


def quality(options: argparse.Namespace) -> dict[str, float]:
    """mIoU (percent) of the checkpoint by number format of the features; empty without a checkpoint or data."""
    if not (options.checkpoint and options.root):
        print("mIoU was not measured: give --checkpoint and --root (a checkpoint's folder and the data set's)")
        return {}
    found = {}
    for kind in FORMATS:
        context, trained = RunContext.of_checkpoint(options.checkpoint, device=options.device)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            evaluator = Evaluator(replace(context, run=context.run.changed(store=kind, features=Path(folder))), trained)
            everything = evaluator.benchmarks(dataset=options.dataset, root=str(options.root))["all"]
            count = min(options.scenes, len(everything.scenes))
            spread = [place * len(everything.scenes) // count for place in range(count)]
            some = Benchmark(Subset(everything.scenes, spread), names=everything.names)
            found[kind] = 100 * evaluator(some, description=f"{options.dataset}, {kind}").counts.miou
        print(f"mIoU       {found[kind]:9.2f} with {kind}, all classes of {options.dataset} at once, {count} images")
    print(f"int8 changes mIoU by {found['int8'] - found['float16']:+.2f} points")
    return found


def show(kind: str, row: dict[str, Any]) -> None:
    """The rows of one format."""
    print(f"{kind}: {row['image_bytes'] / 1e3:.1f} kB an image with its labels")
    for part in ("tower", "write", "cold read", "warm read"):
        unit = "images/s" if part == "tower" else "MB/s"
        rates = f"{row[part]['store']:9.1f} of {row[part]['other']:9.1f} {unit}"
        print(f"  {part:10}{rates:34} ratio {row[part]['fastest']:.2f} (fastest), {row[part]['median']:.2f} (median)")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="packaged")
    parser.add_argument("--tokens", default="", help="token kind of the encoder; the first if left out")
    parser.add_argument("--images", type=int, default=256, help="random images a turn")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5, help="turns of each side; the fastest counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary folder if left out")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint to evaluate with either format")
    parser.add_argument("--root", type=Path, help="the data set's folder")
    parser.add_argument("--dataset", default="pascal", help="pascal, coco, ...: one with a fully labelled test")
    parser.add_argument("--scenes", type=int, default=400, help="images of it, evenly spaced, at most")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
