"""How far the recipe ``bmvc2022`` is from the authors' runs, where it is not the same: the figures of docs/protocol.md.

    python benchmarks/departures.py --root VOC      VOC: the folder that holds VOCdevkit, as for `dataset = pascal`

Tokens are those of CLIP with random weights, so that nothing has to be downloaded: a difference of tokens is the mean
over patches or names of the distance between two unit-length tokens, beside their mean cosine.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import machine, write_record
from PIL import Image
from reference import random_clip
from torch import Tensor

from fusionerlib.config import PairConfig
from fusionerlib.datasets import coco, pascal
from fusionerlib.datasets.augment import PRESETS, view
from fusionerlib.datasets.augment_transforms import Elastic
from fusionerlib.datasets.names import identifier
from fusionerlib.datasets.pascal import Pascal5i
from fusionerlib.datasets.transforms import Resized
from fusionerlib.encoders.prompts import templates
from fusionerlib.encoders.registry import load_text
from fusionerlib.evaluation.queries import episodes
from fusionerlib.features.text import visual_of

SIZE = 224


def main() -> None:
    """One figure after the other, printed and kept."""
    options = arguments()
    record: dict[str, Any] = {"machine": machine()}
    photos = Pascal5i(options.root, fold=0, split="train")
    spread = [place * len(photos) // options.images for place in range(options.images)]
    images = [photos[index].image for index in spread]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        _, file = random_clip(options.encoder, Path(folder))
        pair = PairConfig(visual=options.encoder, text=options.encoder, visual_weights=file, text_weights=file)
        record["pixels"] = pixels(pair, images)
        record["text"] = text(pair)
    record["augmentation"] = elastic(turns=20)
    tests = [Pascal5i(options.root, fold=fold, split="val") for fold in range(4)]
    record["empty"] = empty(photos, tests, count=options.views)
    record["episodes"] = asked()
    for part, figures in record.items():
        if part != "machine":
            print(part)
            for name, figure in figures.items():
                print(f"  {name}: {figure}")
    write_record(options.json, record)


def apart(one: Tensor, other: Tensor) -> dict[str, float]:
    """Mean distance of unit-length tokens (..., dim), and their mean cosine."""
    cosine = F.cosine_similarity(one, other, dim=-1).mean()
    return {"difference": round(float((one - other).norm(dim=-1).mean()), 4), "cosine": round(float(cosine), 4)}


def pixels(pair: PairConfig, images: list[np.ndarray]) -> dict[str, Any]:
    """Patch tokens of whole images by the paper's normalisation and the encoder's, and reduced by area and by ours."""
    ours, area = (batch(images, way) for way in (Image.Resampling.BILINEAR, Image.Resampling.BOX))
    paper, own = (visual_of(pair.model_copy(update={"normalisation": name})) for name in ("pascal", "encoder"))
    tokens = paper(ours).main.tokens
    levels = (ours.float() - area.float()).abs().mean()
    return {
        "normalisation: the paper's, and the encoder's own": apart(tokens, own(ours).main.tokens),
        "whole images: bilinear and antialiased, and by area": apart(tokens, paper(area).main.tokens)
        | {"levels of 255": round(float(levels), 2)},
    }


def batch(images: list[np.ndarray], way: Image.Resampling) -> Tensor:
    """``images`` squeezed to the input size."""
    squeezed = [np.array(Image.fromarray(image).resize((SIZE, SIZE), way)) for image in images]
    return torch.from_numpy(np.stack(squeezed)).permute(0, 3, 1, 2)


def text(pair: PairConfig) -> dict[str, Any]:
    """Text tokens of VOC's classes by one set of templates and another, and by identifiers and words."""
    encoder = load_text(pair.text, weights=pair.text_weights)
    words = list(pascal.NAMES)
    raw = [identifier(word) for word in words]
    right = encoder(raw, templates("openai"))
    found: dict[str, Any] = {
        f"templates: openai, and {name}": apart(right, encoder(raw, templates(name)))
        for name in ("scene", "simple", "none")
    }
    joined = [place for place, (one, other) in enumerate(zip(raw, words, strict=True)) if one != other]
    spelled = encoder([words[place] for place in joined], templates("openai"))
    return found | {f"names: {', '.join(raw[place] for place in joined)}, and as words": apart(right[joined], spelled)}


def elastic(turns: int) -> dict[str, float]:
    """What the elastic change displaces beside its affine map: deviation in pixels of a view of 224."""
    torch.manual_seed(0)
    bent = [Elastic(1.0, 50.0, 0.0).make_params([torch.zeros(3, SIZE, SIZE)])["displacement"] for _ in range(turns)]
    return {"elastic displacement, pixels": round(float(torch.cat(bent).std()) * SIZE / 2, 5)}


def empty(train: Pascal5i, tests: list[Pascal5i], *, count: int) -> dict[str, str]:
    """Training views whose every pixel is ignored, and test pairs whose target is lost when the image is resized."""
    ignored = sum(
        bool((view(train[index], augmentation=PRESETS["pascal"], size=SIZE, seed=(0, index)).labels == 255).all())
        for index in (place * len(train) // count for place in range(count))
    )
    lost = 0
    for test in tests:
        small = Resized(test, size=SIZE)
        lost += sum(not small[scene].mask(name).any() for scene, name in test.pairs)
    return {
        "training views all ignored": f"{ignored} of {count}",
        "test pairs without a target, those whose image is here": f"{lost} of {sum(len(test.pairs) for test in tests)}",
    }


def asked() -> dict[str, str]:
    """Classes of a fold that its 1,000 episodes never ask, all folds together."""
    lists: dict[str, list[list[tuple[Any, int]]]] = {
        "PASCAL-5i": [list(pascal.validation_pairs(fold)) for fold in range(4)],
        "COCO-20i": [list(coco.fold_pairs(fold, "val")) for fold in range(4)],
    }
    found = {}
    for name, folds in lists.items():
        missing, pairs = 0, 0
        for fold in folds:
            listed = [(place, str(number)) for place, (_, number) in enumerate(fold)]
            chosen = episodes(listed, rule="hsnet", by_class=name == "COCO-20i")
            missing += len({one for _, one in listed} - {one for _, one in chosen})
            pairs += len(fold)
        found[f"{name}: classes never asked"] = f"{missing}, of {pairs} pairs in four folds"
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds VOCdevkit")
    parser.add_argument("--encoder", default="clip-vit-b16", choices=["clip-vit-b16", "clip-vit-l14"])
    parser.add_argument("--images", type=int, default=24, help="photographs whose tokens are compared")
    parser.add_argument("--views", type=int, default=1000, help="training views that are looked at")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
