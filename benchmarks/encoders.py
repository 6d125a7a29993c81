"""The cost of the frozen visual encoders, compared with the bare network inside: images a second and peak memory.

    python benchmarks/encoders.py                      every encoder on this machine, and CLIP with random weights
    python benchmarks/encoders.py --only packaged --sizes 224

Both sides run in turns in one process, on the same threads, with the same weights. ``cost`` is our time divided by that
of the bare network, of the fastest turns. Beside the network ours converts bytes to pixels, normalises them, and scales
tokens to unit length.
"""

import argparse
import copy
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import Run, fastest, machine, paired, peak_memory, write_record
from safetensors.torch import save_file
from torch import Tensor

RANDOM = {"clip-vit-b16": "ViT-B-16-quickgelu", "clip-vit-l14": "ViT-L-14-quickgelu"}
"""Encoders that are measured with random weights if theirs are not on this machine, and open_clip's names for them."""


def main() -> None:
    """Measure every case in a process of its own, so that memory is not shared."""
    options = arguments()
    names = options.only or sorted({*present_names(), *RANDOM})
    print(f"{torch.get_num_threads()} threads, device {options.device}, torch {torch.__version__}")
    heads = [f"{head:>9}" for head in ("ours/s", "bare/s", "cost", "ours MB", "bare MB")]
    print(f"{'encoder':22}{'pixels':>7}{'precision':>10}{''.join(heads)}")
    rows, context = [], multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            weights = "" if name in present_names() else random_weights(name, Path(folder))
            for size in options.sizes:
                for precision in options.precisions:
                    with context.Pool(1) as pool:
                        row = pool.apply(measured, (name, weights, size, precision, options.turns, options.device))
                    rows.append(row)
                    print(line(row), flush=True)
    write_record(options.json, {"machine": machine(options.device), "rows": rows})


def measured(name: str, weights: str, size: int, precision: Any, turns: int, device: str) -> dict[str, Any]:
    """Measure one encoder at one size and precision."""
    from fusionerlib.encoders.registry import load_visual

    tower: Any = load_visual(name, weights=weights, precision=precision, device=device)
    side = size // tower.multiple * tower.multiple
    count = max(1, 4 * 224**2 // side**2)  # the same number of pixels at every size
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    pixels = ((images.to(device).float() / 255 - tower.mean) / tower.std).to(tower.dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    bare = bare_forward(tower.network, side)
    sides: dict[str, Run] = {"bare": torch.no_grad()(lambda: bare(pixels)), "ours": lambda: tower(images)}
    memory = {key: peak_memory(run) for key, run in sides.items()}
    best = fastest(paired(sides, turns, device=device))
    return {"encoder": name, "size": side, "precision": precision} | {
        **{f"{key}_rate": len(images) / seconds for key, seconds in best.items()},
        **{f"{key}_megabytes": value / 1e6 for key, value in memory.items()},
    }


def bare_forward(network: Any, side: int) -> Callable[[Tensor], Any]:
    """The forward pass of the network by its own library, for images of ``side`` pixels."""
    if not hasattr(network, "tower"):
        return getattr(network.network, "forward_features", network.network)
    bare = copy.copy(network.tower)
    if hasattr(network, "positions"):
        rows = side // network.stride
        resized = torch.nn.Parameter(network.positions(rows, rows), requires_grad=False)
        bare._parameters = {**bare._parameters, "positional_embedding": resized}
    return bare


def present_names() -> list[str]:
    """The visual encoders that are on this machine."""
    from fusionerlib.encoders.registry import list_encoders
    from fusionerlib.encoders.weights import present

    return [row.name for row in list_encoders("visual") if present(row)]


def random_weights(name: str, folder: Path) -> str:
    """A file in the published format with random weights."""
    import open_clip

    file = folder / f"{name}.safetensors"
    if not file.is_file():
        model = open_clip.create_model(RANDOM[name], pretrained=None)
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, file)
    return str(file)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"{row['encoder']:22}{row['size']:>7}{row['precision']:>10}{row['ours_rate']:>9.2f}{row['bare_rate']:>9.2f}"
        f"{row['bare_rate'] / row['ours_rate']:>9.3f}{row['ours_megabytes']:>9.0f}{row['bare_megabytes']:>9.0f}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="encoders to measure; all if left out")
    parser.add_argument("--sizes", nargs="*", type=int, default=[224, 448])
    parser.add_argument("--precisions", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--turns", type=int, default=5, help="turns of each side; the fastest counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
