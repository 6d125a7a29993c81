"""The cost of inference: a photo by sliding windows, new words on the same image, and a vocabulary of 1,203 names.

    python benchmarks/inference.py                        all three
    python benchmarks/inference.py --only words large     the packaged pair alone

photo   500x375 pixels, 20 names, nine windows of 224, the paper's fusion on ViT-L/14 with random weights. ours: text
        encoded once, windows in one batch. bare: the same parts called once each, without the library around them.
        reference: benchmarks/reference.py, every window alone with its names encoded again, one name at a time as in
        the paper, or all names at once; one window and one name are timed and multiplied (all take ten minutes)
words   the packaged pair and the ``modern`` fusion: five new names, and twenty cached ones
edges   the guide of a photo of 500x375 pixels, and of five names on it, beside the packaged visual encoder
pixels  a 12-megapixel picture and 23 names, after the model: the best name of each pixel. plain: every name resized to
        the full size, one after the other; the labels must be equal
large   the same with 100 to 1,203 names: seconds, bytes, and whether chunks of names give the same as all at once
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import fastest, machine, paired, peak_memory, ratio, resident, write_record
from PIL import Image
from reference import OPEN_CLIP, Reference, Towers, random_clip
from sides import NAMES
from skimage.data import coffee

from fusionerlib import Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.encoders.prompts import templates
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.features.text import TextEmbeddingCache, text_cache_of, visual_of
from fusionerlib.inference.edges import Guide
from fusionerlib.inference.segmentation import best_names
from fusionerlib.inference.windows import corners, cut, stride_of
from fusionerlib.models import base as fusion_model
from fusionerlib.models import build
from fusionerlib.models.decoder import resize
from fusionerlib.runs import packaged_run

WINDOW = 224
APART = 1e-2
"""Largest allowed difference of a logit (up to 14) from the reference's."""
COUNTS = (100, 300, 600, 1203)
CASES = ["photo", "words", "large", "edges", "pixels"]


def main() -> None:
    """Run the cases that were asked for."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    cases: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "photo": photo,
        "words": words,
        "large": large,
        "edges": edges,
        "pixels": pixels,
    }
    record: dict[str, Any] = {"machine": machine(options.device)}
    for name in options.only:
        record[name] = cases[name](options)
    write_record(options.json, record)


def picture() -> np.ndarray:
    """A photo of 500x375 pixels."""
    return np.array(Image.fromarray(coffee()).resize((500, 375)))


def photo(options: argparse.Namespace) -> dict[str, Any]:
    """A photo by sliding windows."""
    device, image, names = options.device, picture(), NAMES[: options.names]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        clip, file = random_clip(options.encoder, Path(folder))
        visual: Any = load_visual(options.encoder, weights=file, device=device)
        text = load_text(options.encoder, weights=file, device=device)
        model = build(FusionConfig(), visual_width=visual.width, text_width=text.width).to(device).eval()
        towers = Towers(clip.to(device), templates=templates("scene"), mean=visual.mean, std=visual.std)
        plain = Reference(visual.width).to(device)
        plain.load_state_dict(model.state_dict())
        places = corners(*image.shape[:2], window=WINDOW, stride=stride_of(WINDOW))
        tiles, outside = cut(torch.from_numpy(image), places, window=WINDOW)

        def ours(names: list[str] = names) -> torch.Tensor:
            table = TextEmbeddingCache(encoder=text, templates=templates("scene"))
            segmenter = Segmenter(model=model, visual=visual, text_cache=table, size=WINDOW, stride=stride_of(WINDOW))
            return segmenter.set_image(image).segment(names).logits

        def bare() -> None:
            asked = text(names, templates("scene"))
            main = visual(tiles, outside=outside).main
            model(main.tokens, asked.expand(len(tiles), -1, -1), grid=main.grid, size=(WINDOW, WINDOW))

        def fused(count: int) -> torch.Tensor:
            return plain(tokens, asked[:count], (WINDOW, WINDOW))

        tokens, asked = towers.image(tiles[0]), torch.stack([towers.word(name) for name in names[:2]])
        # The part of the image that only the first window covers.
        alone = np.s_[:, : stride_of(WINDOW), : stride_of(WINDOW)]
        apart = float((ours(names[:2])[alone].cpu() - fused(2)[alone].cpu()).abs().max())
        if not apart < APART:
            raise RuntimeError(f"ours and the reference differ by {apart} in a logit, expected less than {APART}")
        asked = asked[:1].expand(len(names), -1)
        runs: dict[str, Callable[[], object]] = {"ours": ours, "bare": bare, "word": lambda: towers.word(names[0])}
        runs |= {"tower": lambda: towers.image(tiles[0]), "one": lambda: fused(1), "all": lambda: fused(len(names))}
        seconds = paired(runs, options.turns, device=device)
    best, windows = fastest(seconds), len(tiles)
    single = windows * len(names) * (best["word"] + best["tower"] + best["one"])
    joint = windows * (len(names) * best["word"] + best["tower"] + best["all"])
    over = ratio(seconds, "ours", "bare")
    print(
        f"photo 500x375, {len(names)} names, {windows} windows: {best['ours']:.2f} s, bare parts {best['bare']:.2f} s"
    )
    print(f"  {over['fastest']:.3f} times the bare parts (fastest turns), {over['median']:.3f} (median); target 1.1")
    print(f"  reference, a name at a time: {single:.0f} s, {single / best['ours']:.1f} times ours; target 30")
    print(f"  reference, all names at once: {joint:.0f} s, {joint / best['ours']:.1f} times ours")
    print("  (both from one window and one name, multiplied)", flush=True)
    found = {"windows": windows, "names": len(names), "seconds": seconds, "over_bare": over, "apart": apart}
    return found | {"reference_single": single / best["ours"], "reference_joint": joint / best["ours"]}


def packaged(size: int, device: str) -> Segmenter:
    """A segmenter of the packaged checkpoint's pair and fusion with random weights, which cost the same."""
    nowhere = Path("data")
    run = packaged_run(voc=nowhere, coco=nowhere, features=nowhere, size=size)
    visual, table = visual_of(run.pair, device=device), text_cache_of(run.pair, device=device)
    model = build(run.fusion, visual_width=visual.width, text_width=table.encoder.width).to(device)
    return Segmenter(model=model, visual=visual, text_cache=table, size=size)


def words(options: argparse.Namespace) -> dict[str, Any]:
    """New words on the same image."""
    rows: dict[str, Any] = {}
    for size in (WINDOW, 320):
        segmenter = packaged(size, options.device).set_image(picture())
        table = segmenter.text_cache
        segmenter.segment(NAMES)

        def cold(segmenter: Segmenter = segmenter, table: TextEmbeddingCache = table) -> None:
            segmenter.text_cache = TextEmbeddingCache(
                encoder=table.encoder, templates=["a photo of a {}."], synonyms=table.synonyms
            )
            segmenter.segment(NAMES[:5])
            segmenter.text_cache = table

        runs = {"five cold": cold, "twenty cached": lambda segmenter=segmenter: segmenter.segment(NAMES)}
        seconds = paired(runs, 10 * options.turns, device=options.device, warm=3)
        rows[str(size)] = {name: 1e3 * best for name, best in fastest(seconds).items()}
        rows[str(size)] |= {f"{name}, median": 1e3 * float(np.median(all)) for name, all in seconds.items()}
        for name, found in rows[str(size)].items():
            print(f"new words, {size} pixels, {name}: {found:.1f} ms; target 60", flush=True)
    return rows


def edges(options: argparse.Namespace) -> dict[str, Any]:
    """What guided edges cost beside the encoder."""
    segmenter = packaged(320, options.device)
    image = np.array(Image.fromarray(picture()).resize((320, 320)))
    batch, grid, coarse = torch.from_numpy(image).permute(2, 0, 1)[None], (40, 40), torch.randn(5, 40, 40)
    guide = Guide.of(image, grid)
    assert guide is not None
    runs: dict[str, Callable[[], object]] = {
        "tower": lambda: segmenter.visual(batch),
        "guide": lambda: Guide.of(image, grid),
        "five names": lambda: guide(coarse),
    }
    seconds = paired(runs, 10 * options.turns, device=options.device, warm=3)
    best, over = fastest(seconds), ratio(seconds, "guide", "tower")
    each = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in best.items())
    print(f"edges: {each}; guide {over['fastest']:.3f} of the tower, median {over['median']:.3f}; target 40 ms")
    return {"seconds": seconds, "over_tower": over}


def pixels(options: argparse.Namespace) -> dict[str, Any]:
    """The best name of each pixel of a large picture."""
    names, size = vocabulary(23), (3000, 4000)
    trained = Segmenter.load("packaged").set_image(picture()).segment(names).coarse
    rows: dict[str, Any] = {}
    # Noise is the worst case: no name can be left out of a tile.
    for kind, coarse in {"photo": trained, "noise": 3 * torch.randn(trained.shape)}.items():
        found, expected = best_names(coarse, size), plain_best(coarse, size)
        if not (np.array_equal(found[1], expected[1]) and torch.allclose(found[0], expected[0], atol=1e-5, rtol=0)):
            raise RuntimeError(f"{kind}: {int((found[1] != expected[1]).sum())} labels differ from the plain way's")
        runs = {
            "tiles": lambda coarse=coarse: best_names(coarse, size),
            "plain": lambda coarse=coarse: plain_best(coarse, size),
        }
        seconds = paired(runs, options.turns)
        faster, before = ratio(seconds, "plain", "tiles"), resident()
        more = peak_memory(runs["tiles"]) - before
        rows[kind] = {"seconds": seconds, "plain by tiles": faster, "bytes_more": more}
        print(
            f"pixels, {kind}, {len(names)} names: tiles {fastest(seconds)['tiles']:.2f} s, plain "
            f"{fastest(seconds)['plain']:.2f} s: {faster['fastest']:.1f} times as fast, median {faster['median']:.1f}, "
            f"{more / 1e6:.0f} MB more than before; labels equal" + "; target 5" * (kind == "photo"),
            flush=True,
        )
    return rows


def plain_best(coarse: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
    """The best name of each pixel, every name resized to the full size."""
    best, winner = torch.full(size, -torch.inf), torch.zeros(size, dtype=torch.int32)
    for place in range(len(coarse)):
        value, index = resize(coarse[None, place : place + 1], size)[0].max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        winner = torch.where(better, index.to(torch.int32) + place, winner)
    return best, winner.numpy()


def vocabulary(count: int) -> list[str]:
    """Distinct names of two words, like most of LVIS's."""
    kinds = [f"{first} {second}" for first in NAMES for second in NAMES if first != second]
    return [f"{kinds[index % len(kinds)]}{' ' + 'abcd'[index // len(kinds)] * 2}" for index in range(count)]


def large(options: argparse.Namespace) -> dict[str, Any]:
    """Vocabularies of growing size."""
    segmenter = packaged(WINDOW, options.device).set_image(picture())
    rows: dict[str, Any] = {}
    for count in COUNTS[: options.counts]:
        names = vocabulary(count)
        encoding = paired({"text": lambda names=names: fresh(segmenter).add(names)}, 1, warm=0)["text"][0]
        segmenter.text_cache.add(names)
        run = {"segment": lambda names=names: segmenter.segment(names)}
        seconds = fastest(paired(run, options.turns, device=options.device))["segment"]
        before = resident()
        most = peak_memory(run["segment"])
        rows[str(count)] = {"text": encoding, "segment": seconds, "bytes_more": most - before, "bytes": most}
        print(
            f"{count:5} names: text {encoding:.2f} s, segment {seconds:.2f} s ({1e3 * seconds / count:.2f} ms a name), "
            f"{(most - before) / 1e6:.0f} MB more than before, {most / 1e6:.0f} MB in all",
            flush=True,
        )
    rows["exponent"] = exponent([int(count) for count in rows], [row["segment"] for row in rows.values()])
    rows["equal"] = equal(segmenter, vocabulary(4 * fusion_model.NAME_CHUNK))
    print(f"seconds grow with names to the power {rows['exponent']:.2f}; chunks equal the whole: {rows['equal']}")
    return rows


def fresh(segmenter: Segmenter) -> TextEmbeddingCache:
    """An empty cache with the segmenter's text encoder, templates and synonyms."""
    table = segmenter.text_cache
    settings = {"templates": table.templates, "synonyms": table.synonyms, "table": table.table}
    return TextEmbeddingCache(encoder=table.encoder, **settings)


def equal(segmenter: Segmenter, names: list[str]) -> bool:
    """Whether logits of names in chunks are bit-equal to those of all names at once."""
    step = fusion_model.NAME_CHUNK
    parts = segmenter.segment(names)
    try:
        fusion_model.NAME_CHUNK = len(names)
        whole = segmenter.segment(names)
    finally:
        fusion_model.NAME_CHUNK = step
    return bool(torch.equal(parts.coarse, whole.coarse)) and bool((parts.labels == whole.labels).all())


def exponent(amounts: list[int], seconds: list[float]) -> float:
    """The exponent of growth: the slope of log(seconds) against log(amounts)."""
    return float(np.polyfit(np.log(amounts), np.log(seconds), 1)[0]) if len(amounts) > 1 else float("nan")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--encoder", choices=list(OPEN_CLIP), default="clip-vit-l14", help="of the photo")
    parser.add_argument("--names", type=int, default=20, help="asked of the photo")
    parser.add_argument("--counts", type=int, default=len(COUNTS), help=f"how many of {COUNTS} names")
    parser.add_argument("--turns", type=int, default=2, help="turns of each side; the fastest counts")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
