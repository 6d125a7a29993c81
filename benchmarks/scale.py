"""Growth of the cost of training and inference with the number of images, names, pixels and fusion blocks.

    python benchmarks/scale.py                  the paper's fusion, ViT-L/14 with random weights, on this processor
    python benchmarks/scale.py --device cuda --precision bf16 --images 8 16 32 64

Each axis is measured at four points, with the others fixed at one image, one name, 224 pixels and 12 blocks:
train       forward pass, backward pass and optimiser of the fusion on given tokens
answer      forward pass of the fusion on given tokens
tower       forward pass of the frozen visual encoder (images and pixels only)
text        the names through the frozen text encoder, 32 templates each (names only)
``growth`` is the slope of log(seconds) against log(axis): 1 is linear.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from inference import exponent
from measuring import fastest, flops, machine, paired, write_record
from reference import OPEN_CLIP, random_clip
from sides import NAMES

from fusionerlib.config import FusionConfig, TrainingConfig
from fusionerlib.encoders.prompts import templates
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.models import build
from fusionerlib.models.losses import segmentation_loss
from fusionerlib.training.optimisers import make_optimiser
from fusionerlib.training.steps import AUTOCAST

BASE = {"images": 1, "names": 1, "pixels": 224, "depth": 12}
Runs = dict[str, Callable[[], object]]


class Parts:
    """The parts of the paper's model at any point of the four axes."""

    def __init__(self, options: argparse.Namespace, weights: str) -> None:
        self.device, half = options.device, AUTOCAST.get(options.precision)
        precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[options.precision]
        self.visual: Any = load_visual(options.encoder, weights=weights, device=self.device, precision=precision)
        self.text = load_text(options.encoder, weights=weights, device=self.device, precision=precision)
        self.cast = torch.autocast(self.device, half, enabled=half is not None)

    def runs(self, axis: str, *, images: int, names: int, pixels: int, depth: int) -> Runs:
        """The functions to time at one point of ``axis``."""
        torch.manual_seed(0)
        side, device = pixels // self.visual.multiple, self.device
        width = {"visual_width": self.visual.width, "text_width": self.text.width}
        model = build(FusionConfig(depth=depth), **width).to(device)
        optimiser = make_optimiser(model, TrainingConfig(recipe="bmvc2022"))
        tokens = F.normalize(torch.randn(images, side * side, self.visual.width, device=device), dim=-1)
        words = F.normalize(torch.randn(images, names, self.text.width, device=device), dim=-1)
        masks = torch.rand(images, names, pixels, pixels, device=device) > 0.5
        every = {"valid": torch.ones(images, pixels, pixels, dtype=torch.bool, device=device)}
        every |= {"names_mask": torch.ones(images, names, dtype=torch.bool, device=device)}

        def answer() -> torch.Tensor:
            with self.cast:
                return model(tokens, words, grid=(side, side), size=(pixels, pixels)).float()

        def silent() -> None:
            with torch.no_grad():
                answer()

        def train() -> None:
            optimiser.zero_grad(set_to_none=True)
            segmentation_loss(answer(), masks, **every).backward()
            optimiser.step()

        runs: Runs = {"train": train, "answer": silent}
        if axis in ("images", "pixels"):
            picture = torch.randint(0, 256, (images, 3, pixels, pixels), dtype=torch.uint8)
            runs["tower"] = lambda: self.visual(picture)
        if axis == "names":
            asked = [f"{NAMES[index % len(NAMES)]} {index // len(NAMES)}" for index in range(names)]
            runs["text"] = lambda: self.text(asked, templates("scene"))
        return runs


def main() -> None:
    """Measure each axis."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    record: dict[str, Any] = {"machine": machine(options.device), "base": BASE, "axes": {}}
    with tempfile.TemporaryDirectory() as folder:
        _, weights = random_clip(options.encoder, Path(folder))
        parts = Parts(options, weights)
        for axis in BASE:
            record["axes"][axis] = measured(parts, axis, getattr(options, axis), turns=options.turns)
    write_record(options.json, record)


def measured(parts: Parts, axis: str, points: Sequence[int], *, turns: int) -> dict[str, Any]:
    """Print and return seconds and operations at each point of one axis, and their growth."""
    rows: dict[str, dict[str, float]] = {}
    for point in points:
        runs = parts.runs(axis, **{**BASE, axis: point})
        seconds = fastest(paired(runs, turns, device=parts.device))
        operations = {f"{name} gigaflops": flops(run) / 1e9 for name, run in runs.items()}
        rows[str(point)] = {**seconds, **operations}
        if len(rows) == 1:
            print(f"\n{axis:>10}" + "".join(f"{name + ' s':>12}{'GFLOP':>10}" for name in runs))
        figures = "".join(f"{seconds[name]:>12.3f}{operations[f'{name} gigaflops']:>10.1f}" for name in runs)
        print(f"{point:>10}{figures}", flush=True)
    columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
    growth = {name: exponent(points, column) for name, column in columns.items()}
    exponents = [growth[key] for name in growth if not name.endswith("flops") for key in (name, f"{name} gigaflops")]
    print(f"{'growth':>10}" + "".join(f"{part:>{10 if place % 2 else 12}.2f}" for place, part in enumerate(exponents)))
    return {"points": rows, "growth": growth}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=list(OPEN_CLIP), default="clip-vit-l14")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4, 8], help="images a step")
    parser.add_argument("--names", type=int, nargs="+", default=[1, 4, 16, 64], help="names asked of each image")
    parser.add_argument("--pixels", type=int, nargs="+", default=[112, 168, 224, 336], help="sides of the input")
    parser.add_argument("--depth", type=int, nargs="+", default=[3, 6, 12, 24], help="blocks of the fusion")
    parser.add_argument("--turns", type=int, default=2, help="turns of each; the fastest counts")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
