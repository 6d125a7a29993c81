"""The cost of a training step of the library and of the reference: seconds an image, operations, ratios.

    python benchmarks/training.py                        the paper's sizes, ViT-L/14 with random weights at 224 pixels
    python benchmarks/training.py --device cuda --precision bf16 --images 32 --turns 10

reference   benchmarks/reference.py: image by image, 32 templates and the image through CLIP in every step, float32
cached      the same with names encoded once
online      ours: images through the visual encoder in every step, names encoded once; without augmentation
stored      ours: stored features, names encoded once
modern      ours: the packaged pair and the ``modern`` fusion with the packaged checkpoint's recipe, stored features;
            also in float32 (no) and in bf16, with which of them ``auto`` takes on this machine

A step is forward pass, backward pass and optimiser over ``--images`` images. Before anything is timed, loss and
gradients of reference, online and stored are compared on the same images. Sides run in turns; the fastest turn counts.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import ceilings, fastest, flops, machine, paired, ratio, write_record
from reference import OPEN_CLIP, Towers, random_clip
from sides import NAMES, SIZE, Ours, Plain, check
from stages import measured, stages

from fusionerlib.config import RunConfig
from fusionerlib.encoders.prompts import templates
from fusionerlib.features.text import in_precision_of
from fusionerlib.runs import packaged_run
from fusionerlib.training.steps import AUTOCAST


def main() -> None:
    """Compare the gradients, then time whole steps, their parts, and ``modern``."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, record = options.device, {"machine": machine(options.device), "options": vars(options) | {"json": None}}
    half = AUTOCAST.get(options.precision, torch.float32)
    exact = ceilings(device=device)
    peaks = {"reference": exact, "our": exact if half == torch.float32 else ceilings(device=device, precision=half)}
    for side, rates in peaks.items():
        print(side, "peak rates:", ", ".join(f"{part} {rate:.0f}" for part, rate in rates.items()), "(GFLOP/s, GB/s)")
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = sides(options, Path(folder))
        record["agreement"] = check(plain, ours)
        print(f"gradients differ from the reference's by {record['agreement']}", flush=True)
        plain.cached = {name: plain.towers.word(name) for name in NAMES[: options.images]}
        record["bmvc2022"] = steps(plain, ours, options)
        record["parts"] = measured(stages(plain, ours), peaks, turns=options.turns, device=device)
        record["modern"] = modern(ours, options, Path(folder))
    write_record(options.json, record | {"ceilings": peaks})


def sides(options: argparse.Namespace, folder: Path) -> tuple[Ours, Plain]:
    """The library and the reference with the same weights."""
    clip, file = random_clip(options.encoder, folder)
    run = RunConfig.flat(
        preset="bmvc2022",
        recipe="bmvc2022",
        visual=options.encoder,
        text=options.encoder,
        visual_weights=file,
        text_weights=file,
        templates="scene",
        warmup=0,
        batch=options.images,
        mixed_precision=options.precision,
        precision={"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[options.precision],
    )
    ours = Ours(run, folder, options.device)
    towers = Towers(clip.to(options.device), templates=templates("scene"), mean=ours.visual.mean, std=ours.visual.std)
    return ours, Plain(towers, ours, options.device)


def steps(plain: Plain, ours: Ours, options: argparse.Namespace) -> dict[str, Any]:
    """Time whole steps of all sides in turns."""
    runs = {
        "reference": lambda: (plain.loss(), plain.update()),
        "cached": lambda: (plain.loss(cached=True), plain.update()),
        "online": lambda: ours.train(ours.online()),
        "stored": lambda: ours.train(ours.stored()),
    }
    seconds = paired(runs, options.turns, device=options.device)
    row: dict[str, Any] = {"seconds": {name: [s / options.images for s in all] for name, all in seconds.items()}}
    for name, best in fastest(seconds).items():
        print(f"{name:12}{best / options.images:8.3f} s an image, {options.images} images a step", flush=True)
    large = options.device != "cpu"
    targets = {("reference", "stored"): 10 if large else 2.2, ("reference", "online"): None if large else 1.6}
    targets |= {("cached", "stored"): 3 if large else None, ("cached", "online"): None}
    for (over, under), target in targets.items():
        found = ratio(seconds, over, under)
        row[f"{over} by {under}"] = found
        wanted = f", target {target}" if target else ""
        print(f"{over} / {under}: {found['fastest']:.2f} (fastest), {found['median']:.2f} (median of turns){wanted}")
    return row


def modern(paper: Ours, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The packaged pair with ``modern``, and the paper's fusion, both on stored features."""
    nowhere = Path("data")
    run = packaged_run(voc=nowhere, coco=nowhere, features=nowhere, size=SIZE, mixed_precision=options.precision)
    small = Ours(run, folder, options.device)
    rows: dict[str, Any] = {}
    both = {"bmvc2022": paper, "modern": small}
    batches = {name: ours.stored() for name, ours in both.items()}
    runs = {name: lambda ours=ours, name=name: ours.train(batches[name]) for name, ours in both.items()}
    seconds = fastest(paired(runs, options.turns, device=options.device))
    for name, ours in both.items():
        count = len(ours.scenes)
        operations = flops(lambda ours=ours, name=name: ours.train(batches[name])) / count
        tower = flops(lambda ours=ours: ours.visual(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)))
        rows[name] = {
            "images_per_second": count / seconds[name],
            "batch": count,
            "names": len(batches[name].samples[0].names),
            "fusion_gigaflops": operations / 1e9,
            "tower_gigaflops": tower / 1e9,
            "parameters": ours.model.trainable()["total"],
        }
        print(f"{name:12}" + ", ".join(f"{key} {value:,.6g}" for key, value in rows[name].items()), flush=True)
    for key in ("fusion_gigaflops", "parameters", "tower_gigaflops"):
        rows[f"share_of_{key}"] = rows["modern"][key] / rows["bmvc2022"][key]
        print(f"modern / bmvc2022, {key}: {rows[f'share_of_{key}']:.4f}")
    rows["precision"] = precisions(small, options)
    return rows


def precisions(ours: Ours, options: argparse.Namespace) -> dict[str, Any]:
    """The step of ``ours`` in float32 and in bf16, and what ``auto`` takes."""
    batch = ours.stored()
    steppers = {name: ours.stepper(ours.run.changed(mixed_precision=name)) for name in ("no", "bf16")}
    runs = {name: lambda stepper=stepper: ours.train(batch, stepper) for name, stepper in steppers.items()}
    seconds = paired(runs, options.turns, device=options.device)
    auto = in_precision_of(ours.run.changed(mixed_precision="auto"), options.device).training.mixed_precision
    for name, best in fastest(seconds).items():
        print(f"modern, mixed_precision {name}: {best:.3f} s a step{' (auto takes it)' * (name == auto)}", flush=True)
    found = ratio(seconds, "bf16", "no")
    print(f"bf16 / no: {found['fastest']:.2f} (fastest), {found['median']:.2f} (median of turns)")
    return {"seconds": seconds, "auto": auto, "bf16 by no": found}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=list(OPEN_CLIP), default="clip-vit-l14")
    parser.add_argument("--images", type=int, default=2, help="images a step")
    parser.add_argument("--turns", type=int, default=3, help="turns of each side; the fastest counts")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no", help="of our side")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
