"""Copy-paste scenes: several objects, cut out of one-object scenes by their masks, on the first one's background."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from fusionerlib.datasets.mosaics import resized
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.files import fingerprint

SHARE = (0.32, 0.5)
"""An object's longer side, as a share of the scene's."""
HIDDEN = 0.2
"""An object stays visible but for this share, where places for the later ones can be found."""
TRIES = 30


def paste(scenes: Sequence[Scene], *, size: int, rng: np.random.Generator) -> Scene:
    """A ``size`` x ``size`` scene with every object of ``scenes``, label k + 1 for the k-th different name.

    The background is the first scene's, with its own object painted over by the colours around it. Later objects lie
    on top of earlier ones. Two scenes of one name share a label.
    """
    names = tuple(dict.fromkeys(scene.names[0] for scene in scenes))
    image = _background(resized(scenes[0], width=size, height=size))
    labels = np.zeros((size, size), dtype=np.uint8)
    for scene in scenes:
        pixels, inside = _cut_out(scene, longer=rng.uniform(*SHARE) * size)
        top, left = _place(inside, labels, rng)
        window = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
        image[window][inside] = pixels[inside]
        labels[window][inside] = names.index(scene.names[0]) + 1
    return Scene(image=image, labels=labels, names=names, key=" & ".join(scene.key for scene in scenes))


def _background(scene: Scene) -> np.ndarray:
    """The image with its object replaced by columns and rows from beyond it, so that no trace of its shape stays."""
    box = Image.fromarray((scene.labels == 1).astype(np.uint8)).getbbox()
    image = scene.image.copy()
    if box is None:
        return image
    height, width = scene.labels.shape
    # Two pixels around the object are mixed with it by resizing.
    left, top, right, bottom = max(box[0] - 2, 0), max(box[1] - 2, 0), min(box[2] + 2, width), min(box[3] + 2, height)
    # A strip from the wider free side, mirrored until it fills the box; the whole image's mean where none is free.
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


def _cut_out(scene: Scene, *, longer: float) -> tuple[np.ndarray, np.ndarray]:
    """The object's box with its longer side resized to ``longer`` pixels, and where in it the object is."""
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
    return small.image, _without_rim(small.labels == 1)


def _without_rim(inside: np.ndarray) -> np.ndarray:
    """The mask less its outermost pixel; parts up to four pixels thin, which would fall to pieces, stay as they are."""
    mask = Image.fromarray(np.pad(inside, 3).astype(np.uint8))
    smaller, larger = ImageFilter.MinFilter, ImageFilter.MaxFilter
    body = mask.filter(smaller(5)).filter(larger(5))
    thin = ImageChops.subtract(mask, body.filter(larger(3))).filter(larger(5))
    kept = ImageChops.lighter(ImageChops.darker(mask.filter(smaller(3)), body), ImageChops.darker(mask, thin))
    return np.array(kept, dtype=bool)[3:-3, 3:-3]


def _place(inside: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """The top left corner, of ``TRIES`` random ones, that hides least of any object already there."""
    size, (height, width) = labels.shape[0], inside.shape
    areas = np.bincount(labels.ravel(), minlength=255)
    best, least = (0, 0), np.inf
    for _ in range(TRIES):
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        covered = np.bincount(labels[top : top + height, left : left + width][inside], minlength=255)[1:]
        hidden = float((covered / np.maximum(areas[1:], 1)).max())
        if hidden < least:
            best, least = (top, left), hidden
        # Several later objects may each take a part of an earlier one.
        if hidden <= HIDDEN / 4:
            break
    return best


class Pastes:
    """Copy-paste scenes of ``scenes`` by groups of their indices, each seeded by (seed, place in the list)."""

    def __init__(self, scenes: Scenes, indices: Sequence[tuple[int, ...]], *, size: int, seed: int) -> None:
        self.scenes, self.indices, self.size, self.seed = scenes, list(indices), size, seed
        self.fingerprint = fingerprint(
            scenes.fingerprint, "paste", self.indices, size, seed, SHARE, HIDDEN, "without rim"
        )

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The different names of scene ``index``, in order of pasting."""
        return tuple(dict.fromkeys(self.scenes.names(place)[0] for place in self.indices[index]))

    def __getitem__(self, index: int) -> Scene:
        parts = [self.scenes[place] for place in self.indices[index]]
        return paste(parts, size=self.size, rng=np.random.default_rng((self.seed, index)))
