"""Data sets made from data sets: a selection, one size for all, and seeded augmented views."""

import threading
from collections.abc import Sequence

import numpy as np

from fusionerlib.datasets.mosaic import recipe, resized
from fusionerlib.datasets.scene import Scene, Scenes
from fusionerlib.errors import FusionerError

CROP = (0.5, 1.0)
"""Share of the image's area that a random resized crop keeps."""
FLIP = 0.5
"""How often a view is mirrored left to right."""
JITTER = (0.5, 0.5, 0.5)
"""Brightness, contrast and saturation change by a factor in 1 - JITTER to 1 + JITTER."""
JITTERED = 0.5
"""How often a view's colours change at all."""
_GENERATOR = threading.Lock()


class Subset:
    """The scenes of ``scenes`` at ``indices``, in that order; an index may come up more than once.

    Raises FusionerError for an index that ``scenes`` does not have.
    """

    def __init__(self, scenes: Scenes, indices: Sequence[int]) -> None:
        self.scenes, self.indices = scenes, [int(index) for index in indices]
        for index in self.indices:
            if not 0 <= index < len(scenes):
                raise FusionerError(f"scene {index} is not in a set of {len(scenes)}: choose 0 to {len(scenes) - 1}")
        self.fingerprint = recipe(scenes.fingerprint, "subset", self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        return self.scenes.names(self.indices[index])

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[self.indices[index]]


class Changed:
    """Every scene of ``scenes`` changed on its own: as many scenes, of the same names. What is done to one is in the
    ``__getitem__`` of a subclass, and ``how`` is all that decides it, for the fingerprint.
    """

    def __init__(self, scenes: Scenes, *how: int | float | str) -> None:
        self.scenes, self.fingerprint = scenes, recipe(scenes.fingerprint, *how)

    def __len__(self) -> int:
        return len(self.scenes)

    def names(self, index: int) -> tuple[str, ...]:
        """The names of scene ``index`` without opening its image."""
        return self.scenes.names(index)


class Resized(Changed):
    """Every scene squeezed to ``size`` x ``size`` pixels: image bilinear and antialiased, labels to the nearest pixel.

    Raises FusionerError for a size below 1.
    """

    def __init__(self, scenes: Scenes, *, size: int) -> None:
        super().__init__(scenes, "resized", size)
        self.size = _positive("size", size)

    def __getitem__(self, index: int) -> Scene:
        return resized(self.scenes[index], width=self.size, height=self.size)


class Views:
    """``views`` versions of every scene, each ``size`` x ``size`` pixels; scene i's view v is at ``i * views + v``.

    View 0 is the scene as ``Resized`` gives it. The others are a random resized crop, mirrored half of the time, with
    changed colours half of the time, image and labels together (the paper's augmentation without noise and warps).
    A view is decided by (seed, i, v) alone. Its names are the scene's, even where the crop left an object out: that
    name's mask is then empty, which is a correct answer and not an error.
    Raises FusionerError for views or a size below 1.
    """

    def __init__(self, scenes: Scenes, *, views: int, seed: int, size: int) -> None:
        self.scenes, self.seed = scenes, seed
        self.views, self.size = _positive("views", views), _positive("size", size)
        self.fingerprint = recipe(scenes.fingerprint, "views", views, seed, size, CROP, FLIP, JITTER, JITTERED)

    def __len__(self) -> int:
        return len(self.scenes) * self.views

    def names(self, index: int) -> tuple[str, ...]:
        """The names of the scene that view ``index`` shows, without opening its image."""
        return self.scenes.names(index // self.views)

    def __getitem__(self, index: int) -> Scene:
        place, view = divmod(index, self.views)
        scene = self.scenes[place]
        if view == 0:
            return resized(scene, width=self.size, height=self.size)
        key = int(np.random.SeedSequence((self.seed, place, view)).generate_state(1)[0])
        return augmented(scene, size=self.size, seed=key, key=f"{scene.key} view {view}")


def augmented(scene: Scene, *, size: int, seed: int, key: str) -> Scene:
    """One random ``size`` x ``size`` view of ``scene``, decided by ``seed``; torch's own generator stays as it was."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    # Hue stays: a name may hold a colour word.
    brightness, contrast, saturation = JITTER
    colours = v2.ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation)
    change = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=CROP, antialias=True),
            v2.RandomHorizontalFlip(FLIP),
            v2.RandomApply([colours], JITTERED),
        ]
    )
    image = tv_tensors.Image(torch.from_numpy(scene.image.copy()).permute(2, 0, 1))
    labels = tv_tensors.Mask(torch.from_numpy(scene.labels.copy()))
    # One generator serves the whole process, so views made in threads take turns.
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would reach the accelerators' too, which nothing here restores.
        torch.default_generator.manual_seed(seed)
        image, labels = change(image, labels)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Scene(image=pixels, labels=labels.numpy(), names=scene.names, key=key)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise FusionerError(f"{name} = {value}: expected at least 1")
    return value
