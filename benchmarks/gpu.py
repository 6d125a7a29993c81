"""A GPU beside the CPU: whether both compute the same, and the first steps of the recipe ``bmvc2022``.

    python benchmarks/gpu.py --device cuda          ViT-L/14 with random weights at 224 pixels
    python benchmarks/gpu.py --device cpu --encoder clip-vit-b16 --batch 2 --steps 4 --workers 0 --toy

parity   tokens of images and logits of the paper's fusion on the device, against the CPU in float32: in float32
         (without TF32) and in bfloat16 (tower and autocast). The distance is that of all values together by their
         length.
steps    ``train`` itself: images of noise opened and augmented by worker processes, through the tower, fusion forward
         and backward, optimiser; in float32 and in bfloat16. Images a second after the first steps, and peak memory.
"""

import argparse
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, peak_memory, write_record
from reference import random_clip
from sides import NAMES, SIZE, RandomScenes
from torch import Tensor

from fusionerlib.config import RunConfig
from fusionerlib.datasets.sampling import SampleOrder
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.models import build
from fusionerlib.training.batch_sources import Batch, OnlineBatchSource
from fusionerlib.training.loop import train
from fusionerlib.training.steps import AUTOCAST

LIMITS = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest distance from the CPU's float32 values that counts as the same. bfloat16 on a CPU: 0.01 and 0.02."""
TOY = {"width": 64, "depth": 2, "heads": 2}
"""A fusion that a processor takes in seconds."""
WARM = 3
"""First steps that are not timed."""


def main() -> None:
    """Parity, then steps; a RuntimeError where the device does not compute what the CPU does."""
    options = arguments()
    record: dict[str, Any] = {"machine": machine(options.device), "options": vars(options) | {"json": None}}
    with tempfile.TemporaryDirectory() as folder:
        _, file = random_clip(options.encoder, Path(folder))
        record["parity"] = parity(options, file)
        write_record(options.json, record)
        record["steps"] = {
            mixed: steps(options, file, mixed=mixed, directory=Path(folder) / mixed) for mixed in ("no", "bf16")
        }
        write_record(options.json, record)
    for precision, found in record["parity"].items():
        if max(found.values()) > LIMITS[precision]:
            raise RuntimeError(f"{options.device} in {precision} is off by {found}, at most {LIMITS[precision]}")


def paper_run(options: argparse.Namespace, file: str, **leaves: Any) -> RunConfig:
    """The recipe as it is for PASCAL, on random weights."""
    return RunConfig.flat(
        preset="bmvc2022",
        recipe="bmvc2022",
        dataset="pascal",
        visual=options.encoder,
        text=options.encoder,
        visual_weights=file,
        text_weights=file,
        batch=options.batch,
        workers=options.workers,
        **(TOY if options.toy else {}),
        **leaves,
    )


def parity(options: argparse.Namespace, file: str) -> dict[str, dict[str, float]]:
    """Relative distances of tokens and logits from the CPU's, by precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    scenes = RandomScenes(2)
    images = torch.from_numpy(np.stack([scenes[index].image for index in range(2)])).permute(0, 3, 1, 2)
    run = paper_run(options, file)
    words = text_cache_of(run.pair).tokens(NAMES[:2])[:, None]
    width, found = words.shape[-1], {}
    expected = answers(run, images, words, device="cpu", width=width)
    for precision in LIMITS:
        pair = run.pair.model_copy(update={"precision": precision})
        given = answers(run.model_copy(update={"pair": pair}), images, words, device=options.device, width=width)
        found[precision] = {
            part: float((value - right).norm() / right.norm())
            for part, value, right in zip(("tokens", "logits"), given, expected, strict=True)
        }
        print(f"parity in {precision}: {found[precision]}, at most {LIMITS[precision]}", flush=True)
    torch.backends.cudnn.allow_tf32 = True
    return found


@torch.no_grad()
def answers(run: RunConfig, images: Tensor, words: Tensor, *, device: str, width: int) -> tuple[Tensor, Tensor]:
    """Tokens of ``images`` and logits of one word each; the fusion's weights are those of one seed."""
    main = visual_of(run.pair, device=device)(images).main
    torch.manual_seed(0)
    model = build(run.fusion, visual_width=main.tokens.shape[-1], text_width=width).eval().to(device)
    half = getattr(torch, run.pair.precision)
    with torch.autocast(torch.device(device).type, half, enabled=half != torch.float32):
        logits = model(main.tokens, words.to(device), grid=main.grid, size=(SIZE, SIZE))
    return main.tokens.float().cpu(), logits.float().cpu()


class Timed(OnlineBatchSource):
    """Notes when each batch is asked for."""

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        """The batches of ``steps``."""
        self.times: list[float] = []
        for batch in super().batches(order, steps):
            self.times.append(time.perf_counter())
            yield batch


def steps(options: argparse.Namespace, file: str, *, mixed: str, directory: Path) -> dict[str, float]:
    """Images a second and peak memory of ``train``; mixed: its number format, the tower's too."""
    precision = str(AUTOCAST.get(mixed, torch.float32)).removeprefix("torch.")
    leaves = {"precision": precision, "mixed_precision": mixed, "steps": options.steps, "warmup": options.steps}
    run = paper_run(options, file, **leaves)
    visual, text_cache = visual_of(run.pair, device=options.device), text_cache_of(run.pair, device=options.device)
    scenes = Photos(RandomScenes(4 * options.batch))
    source = Timed(scenes, encoder=visual, augmentation="pascal", size=SIZE, workers=options.workers)
    losses: list[float] = []

    def trained() -> None:
        _, history = train(
            run=run, source=source, text_cache=text_cache, directory=directory, quiet=True, device=options.device
        )
        losses.extend(row["loss"] for row in history)

    if options.device == "cpu":
        memory = peak_memory(trained)
    else:
        torch.cuda.reset_peak_memory_stats()
        trained()
        memory = float(torch.cuda.max_memory_allocated())
    warm = min(WARM, options.steps - 2)
    seconds = source.times[-1] - source.times[warm]
    rate = options.batch * (options.steps - 1 - warm) / seconds
    print(
        f"steps, mixed_precision {mixed}: {rate:.2f} images/s, {memory / 1e9:.2f} GB at most, losses {losses[:3]} ..."
    )
    return {"images_per_second": rate, "memory_gb": memory / 1e9, "first_loss": losses[0], "last_loss": losses[-1]}


class Photos(RandomScenes):
    """Scenes of the size of a photograph, so that opening and augmenting them costs what it does there."""

    def __init__(self, scenes: RandomScenes) -> None:
        super().__init__(scenes.count)
        self.fingerprint = f"photos-{scenes.fingerprint}"

    def __getitem__(self, index: int) -> Any:
        """The scene at 448 x 448 pixels."""
        scene = super().__getitem__(index)
        image, labels = (np.repeat(np.repeat(part, 2, axis=0), 2, axis=1) for part in (scene.image, scene.labels))
        return type(scene)(image=image, labels=labels, names=scene.names, key=scene.key)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoder", default="clip-vit-l14", choices=["clip-vit-b16", "clip-vit-l14"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="at least 4")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--toy", action="store_true", help="a small fusion, to try the script without a GPU")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
