"""What the drawn set trains and tests on: copy-paste scenes and mosaics of its one-object images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from fusionerlib.config import DataConfig
from fusionerlib.datasets.fss1000 import FSSFolder
from fusionerlib.datasets.mosaics import mosaic_indices, mosaics_of
from fusionerlib.datasets.openmoji.drawing import SPLITS, Splits, build, load_splits
from fusionerlib.datasets.openmoji.glyphs import COLOURS
from fusionerlib.datasets.scene import Scene, Scenes, resized
from fusionerlib.datasets.transforms import Concat
from fusionerlib.digests import content_digests
from fusionerlib.files import fingerprint

OBJECT_SIDE = (0.32, 0.5)
"""Least and greatest length of an object's longer side, as a share of the scene's side."""
MAX_HIDDEN = 0.2
"""Greatest share of an object that later ones may cover, where places for them can be found."""
TRIES = 30
"""Random places that are tried for an object."""


class Pastes:
    """Copy-paste scenes of ``scenes``, one for each group of their indices, decided by (seed, index)."""

    def __init__(self, scenes: Scenes, indices: Sequence[tuple[int, ...]], *, size: int, seed: int) -> None:
        self.scenes, self.indices, self.size, self.seed = scenes, list(indices), size, seed
        self.fingerprint = fingerprint(
            scenes.fingerprint, "paste", self.indices, size, seed, OBJECT_SIDE, MAX_HIDDEN, "without rim"
        )

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The different names of scene ``index``, in the order of pasting."""
        return tuple(dict.fromkeys(self.scenes.names(place)[0] for place in self.indices[index]))

    def __getitem__(self, index: int) -> Scene:
        parts = [self.scenes[place] for place in self.indices[index]]
        return paste(parts, size=self.size, rng=np.random.default_rng((self.seed, index)))


def drawn_scenes(config: DataConfig) -> tuple[Scenes, dict[str, Scenes]]:
    """The training scenes and the tests by name. The set is drawn first where it is missing.

    Every training scene shows four objects: 3/8 are copy-paste scenes, 1/8 mosaics, 1/2 mosaics of objects in their
    own colours. These are there because names with colour words can be told apart by colour alone; unseen objects need
    the nouns.
    """
    drawn = (config.root / SPLITS).is_file()
    # An existing set is used as it is, whatever settings it was drawn with.
    splits = load_splits(config.root) if drawn else build(config.root, objects=config.objects)
    # In one go: each part by itself would read and write again what is kept of the others.
    content_digests([file for kind in ("jpg", "png") for file in sorted(config.root.glob(f"*/*.{kind}"))])
    numbers = splits.train_numbers()
    plain = {name: numbers[name] for name in splits.train if name.split("_")[0] not in COLOURS}
    train, uncoloured = FSSFolder(config.root, numbers=numbers), FSSFolder(config.root, numbers=plain)
    sources = test_sources(config.root, splits)
    part, seed = max(1, config.train_scenes // 8), config.data_seed
    tests: dict[str, Scenes] = {
        name: pasted(source, size=config.size, count=config.eval_scenes, seed=1001 + place)
        for place, (name, source) in enumerate(sources.items())
    }
    train_scenes = Concat(
        pasted(train, size=config.size, count=3 * part, seed=seed + 1, objects=(4, 4)),
        mosaics_of(train, size=config.size, count=part, seed=seed + 2),
        mosaics_of(uncoloured, size=config.size, count=4 * part, seed=seed + 3),
    )
    return train_scenes, tests


def test_sources(root: Path, splits: Splits) -> dict[str, FSSFolder]:
    """The one-object scenes that the tests are made of, by test."""
    return {
        "seen": FSSFolder(root, numbers=splits.seen_numbers()),
        "combinations": FSSFolder(root, classes=splits.combinations),
        "objects": FSSFolder(root, classes=splits.objects),
    }


def pasted(source: Scenes, *, size: int, count: int, seed: int, objects: tuple[int, int] = (2, 4)) -> Pastes:
    """``count`` copy-paste scenes of ``objects`` (least, most; at most 4) one-object scenes with different names."""
    names = [source.names(i)[0] for i in range(len(source))]
    indices = paste_indices(names, count=count, seed=seed, objects=objects)
    return Pastes(source, indices, size=size, seed=seed)


def paste_indices(
    names: Sequence[str], *, count: int, seed: int, objects: tuple[int, int] = (2, 4)
) -> list[tuple[int, ...]]:
    """Groups of ``objects`` (least, most) indices with different ``names``; all are used about equally often."""
    groups = mosaic_indices(names, count=count, seed=seed)
    sizes = np.random.default_rng((seed, 7)).integers(objects[0], objects[1] + 1, size=len(groups))
    return [tuple(group[:size]) for group, size in zip(groups, sizes, strict=True)]


def paste(scenes: Sequence[Scene], *, size: int, rng: np.random.Generator) -> Scene:
    """A ``size`` x ``size`` scene with the objects of all ``scenes`` pasted in turn, later ones on top.

    The background is the first scene's, its own object replaced by the pixels beside it. Scenes with the same name
    share a label; label k + 1 is the k-th different name.
    """
    names = tuple(dict.fromkeys(scene.names[0] for scene in scenes))
    image = _background(resized(scenes[0], width=size, height=size))
    labels = np.zeros((size, size), dtype=np.uint8)
    for scene in scenes:
        pixels, inside = _cut_out(scene, longer=rng.uniform(*OBJECT_SIDE) * size)
        top, left = _place(inside, labels, rng)
        window = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
        image[window][inside] = pixels[inside]
        labels[window][inside] = names.index(scene.names[0]) + 1
    return Scene(image=image, labels=labels, names=names, key=" & ".join(scene.key for scene in scenes))


def _background(scene: Scene) -> UInt8[np.ndarray, "height width 3"]:
    """The image with the box of its object replaced by pixels beside it, so that its outline can't be seen."""
    box = Image.fromarray((scene.labels == 1).astype(np.uint8)).getbbox()
    image = scene.image.copy()
    if box is None:
        return image
    height, width = scene.labels.shape
    # Resizing has mixed the object into two pixels around it.
    left, top, right, bottom = max(box[0] - 2, 0), max(box[1] - 2, 0), min(box[2] + 2, width), min(box[3] + 2, height)
    # The widest strip without the object, mirrored to fill the image; the mean colour where there is no such strip.
    sides = {"left": left, "right": width - right, "top": top, "bottom": height - bottom}
    side = max(sides, key=lambda name: sides[name])
    if sides[side] < 4:
        image[:] = image[scene.labels == 0].mean(0) if (scene.labels == 0).any() else 128
    elif side in ("left", "right"):
        strip = image[:, :left] if side == "left" else image[:, right:]
        image = np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), mode="symmetric")
    else:
        strip = image[:top] if side == "top" else image[bottom:]
        image = np.pad(strip, ((0, height - strip.shape[0]), (0, 0), (0, 0)), mode="symmetric")
    return image


def _cut_out(
    scene: Scene, *, longer: float
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"]]:
    """The pixels of the object's box, its longer side resized to ``longer``, and the object's mask in it."""
    box = Image.fromarray((scene.labels == 1).astype(np.uint8)).getbbox() or (0, 0, 1, 1)
    left, top, right, bottom = box
    part = Scene(
        image=scene.image[top:bottom, left:right],
        labels=scene.labels[top:bottom, left:right],
        names=scene.names,
        key="",
    )
    factor = longer / max(right - left, bottom - top)
    small = resized(part, width=max(1, round((right - left) * factor)), height=max(1, round((bottom - top) * factor)))
    return small.image, _eroded(small.labels == 1)


def _eroded(inside: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The mask without its outermost pixel; parts at most four pixels thin are kept, they would fall apart."""
    mask = np.pad(inside, 3)
    body = _dilated(~_dilated(~mask, 5), 5)
    thin = _dilated(mask & ~_dilated(body, 3), 5)
    return (~_dilated(~mask, 3) & body | mask & thin)[3:-3, 3:-3]


def _dilated(mask: Bool[np.ndarray, "height width"], side: int) -> Bool[np.ndarray, "height width"]:
    """True within a square of ``side`` pixels around every pixel of ``mask``.

    Pillow's rank filters take ten times as long, and scipy is not among the packages of the notebooks.
    """
    grown = mask.copy()
    for step in range(1, side // 2 + 1):
        grown[step:] |= mask[:-step]
        grown[:-step] |= mask[step:]
    wide = grown.copy()
    for step in range(1, side // 2 + 1):
        wide[:, step:] |= grown[:, :-step]
        wide[:, :-step] |= grown[:, step:]
    return wide


def _place(
    inside: Bool[np.ndarray, "height width"], labels: UInt8[np.ndarray, "size size"], rng: np.random.Generator
) -> tuple[int, int]:
    """Of ``TRIES`` random places, the top left corner of the one that covers the smallest share of any object."""
    size, (height, width) = labels.shape[0], inside.shape
    areas = np.bincount(labels.ravel(), minlength=255)
    best, least = (0, 0), np.inf
    for _ in range(TRIES):
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        covered = np.bincount(labels[top : top + height, left : left + width][inside], minlength=255)[1:]
        hidden = float((covered / np.maximum(areas[1:], 1)).max())
        if hidden < least:
            best, least = (top, left), hidden
        # Divided by 4 because several later objects may cover the same earlier one.
        if hidden <= MAX_HIDDEN / 4:
            break
    return best
