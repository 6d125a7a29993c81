"""What the way in which a name is written costs: mIoU of a checkpoint for capitals, articles, plurals and synonyms.

``python -m studies.name_forms.study data/pascal`` measures the packaged checkpoint on photographs of PASCAL-5i's
validation lists, which it was not trained on. Visual tokens are stored once, so a form costs text and fusion only.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch

from fusionerlib.datasets.all_classes import all_classes_test
from fusionerlib.datasets.transforms import Resized, Subset
from fusionerlib.evaluation.metrics import per_class_iou
from fusionerlib.features.store import FeatureStore, StoredScenes
from fusionerlib.features.text import name_tokens, text_cache_of
from fusionerlib.inference.segmenter import Segmenter

SYNONYMS: dict[str, tuple[str, str, str]] = {
    "airplane": ("plane", "aircraft", "jet"),
    "bicycle": ("bike", "cycle", "pushbike"),
    "bird": ("fowl", "songbird", "birdie"),
    "boat": ("ship", "vessel", "sailboat"),
    "bottle": ("flask", "wine bottle", "water bottle"),
    "bus": ("coach", "omnibus", "autobus"),
    "car": ("automobile", "auto", "motorcar"),
    "cat": ("kitty", "feline", "pussycat"),
    "chair": ("seat", "armchair", "stool"),
    "couch": ("sofa", "settee", "loveseat"),
    "cow": ("cattle", "ox", "bull"),
    "dining table": ("table", "kitchen table", "dinner table"),
    "dog": ("puppy", "hound", "canine"),
    "horse": ("pony", "stallion", "mare"),
    "motorcycle": ("motorbike", "scooter", "moped"),
    "person": ("human", "man", "woman"),
    "potted plant": ("houseplant", "plant", "flowerpot"),
    "sheep": ("lamb", "ewe", "ram"),
    "train": ("locomotive", "railway train", "railcar"),
    "tv": ("television", "television set", "monitor"),
}
"""Three other words for each name, chosen before anything was measured with them."""
PLURALS = {"bus": "buses", "couch": "couches", "person": "persons", "sheep": "sheep"}
"""Plurals that do not end in a plain s."""
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda name: name,
    "Capital": str.capitalize,
    "CAPITALS": str.upper,
    "spaces": lambda name: f"  {name} ",
    "article": lambda name: f"{'an' if name[0] in 'aeiou' else 'a'} {name}",
    "the": lambda name: f"the {name}",
    "a photo of a": lambda name: f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}",
    "plural": lambda name: PLURALS.get(name, f"{name}s"),
    "synonym 1": lambda name: SYNONYMS[name][0],
    "synonym 2": lambda name: SYNONYMS[name][1],
    "synonym 3": lambda name: SYNONYMS[name][2],
}
"""Ways to write a name."""


Slip = Callable[[str, int, str], str]
SLIPS: dict[str, Slip] = {
    "two letters exchanged": lambda name, at, _: name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :],
    "a letter left out": lambda name, at, _: name[:at] + name[at + 1 :],
    "a letter doubled": lambda name, at, _: name[:at] + name[at] + name[at:],
    "a wrong letter": lambda name, at, letter: name[:at] + letter + name[at + 1 :],
}
"""Slips of a name at a place, with a random letter."""


@dataclass(frozen=True)
class Row:
    """A form's mIoU (0-1, single prompt, over names), the IoU of each name, and that of names with each name's text."""

    form: str
    miou: float
    iou: dict[str, float]


def measured(segmenter: Segmenter, scenes: StoredScenes, *, size: int) -> list[Row]:
    """One row a form: each name that a photograph shows is asked alone, written in that form, at threshold 0.5."""
    names = sorted({name for index in range(len(scenes)) for name in scenes.names(index)})
    asked = {form: [write(name) for name in names] for form, write in FORMS.items()}
    tokens = {form: name_tokens(segmenter.model, segmenter.text_cache, texts) for form, texts in asked.items()}
    shared, either = (np.zeros((len(FORMS), len(names)), dtype=np.int64) for _ in range(2))
    for index in range(len(scenes)):
        scene = scenes[index]
        places = [names.index(name) for name in scene.names]
        text = torch.cat([tokens[form][places] for form in FORMS])
        rows, columns, _ = scene.tokens.shape
        with torch.no_grad():
            logits = segmenter.model(
                scene.tokens.flatten(0, 1)[None], text[None], grid=(rows, columns), size=(size, size)
            )[0]
        predicted, labels = (logits > 0).numpy().reshape(len(FORMS), len(places), size, size), scene.labels.numpy()
        for row in range(len(FORMS)):
            for place, name in enumerate(places):
                mask, truth = predicted[row, place][labels != 255], (labels == place + 1)[labels != 255]
                shared[row, name] += int((mask & truth).sum())
                either[row, name] += int((mask | truth).sum())
    levels = [per_class_iou(shared[row], either[row]) for row in range(len(FORMS))]
    return [
        Row(form, float(np.mean(level)), dict(zip(names, level.tolist(), strict=True)))
        for form, level in zip(FORMS, levels, strict=True)
    ]


def suggested(segmenter: Segmenter, *, draws: int = 3, seed: int = 0) -> dict[str, tuple[int, int, int]]:
    """By slip: how many misspelt names of training got the right "did you mean", none, and another note only.

    Each name is misspelt ``draws`` times at random places; a slip that changes nothing is drawn again.
    """
    rng, counts = random.Random(seed), {}
    for slip, make in SLIPS.items():
        found = Counter[str]()
        for name in [name for name in segmenter.trained_names for _ in range(draws)]:
            written = name
            while written == name:
                places = [at for at in range(len(name)) if name[at] != " "]
                written = make(name, rng.choice(places), rng.choice(ascii_lowercase))
            told = " ".join(segmenter.notes([written]))
            found["right" if f"{name!r}" in told else "other" if told else "silent"] += 1
        counts[slip] = found["right"], found["silent"], found["other"]
    return counts


def chosen(count: int, of: int) -> list[int]:
    """``count`` indices spread evenly over ``of`` photographs."""
    count = min(count, of)
    return [place * of // count for place in range(count)]


def table(rows: Sequence[Row]) -> str:
    """Markdown: mIoU of each form, its difference from the plain name in points, and the names that lose most."""
    plain = rows[0]
    lines = ["| form | mIoU | difference | largest losses |", "|---|---|---|---|"]
    for row in rows:
        lost = sorted((row.iou[name] - plain.iou[name], name) for name in row.iou)[:3]
        losses = ", ".join(f"{name} {100 * by:.0f}" for by, name in lost if by < -0.005)
        lines.append(f"| {row.form} | {100 * row.miou:.1f} | {100 * (row.miou - plain.miou):+.1f} | {losses} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print both tables: with the hand-written table and without it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voc", type=Path, help="the root of PASCAL VOC")
    parser.add_argument("--features", type=Path, default=Path("data/features"))
    parser.add_argument("--photographs", type=int, default=150)
    parser.add_argument("--checkpoint", default="packaged")
    given = parser.parse_args()
    segmenter = Segmenter.load(given.checkpoint)
    for slip, (right, silent, other) in suggested(segmenter).items():
        print(f"{slip}: {right} suggested, {silent} without a note, {other} with another note")
    assert segmenter.run is not None and segmenter.size is not None
    photos = all_classes_test("photos", given.voc)
    some = Subset(photos, chosen(given.photographs, len(photos)))
    store = FeatureStore(given.features, encoder=segmenter.visual)
    scenes = store.add(Resized(some, size=segmenter.size), description="photographs")
    for synonyms in (segmenter.run.pair.synonyms, ""):
        pair = segmenter.run.pair.model_copy(update={"synonyms": synonyms})
        segmenter.text_cache = text_cache_of(pair, names=segmenter.run.data.names)
        print(f"\n{len(scenes)} photographs, synonyms = {synonyms!r}\n")
        print(table(measured(segmenter, scenes, size=segmenter.size)), flush=True)


if __name__ == "__main__":
    main()
