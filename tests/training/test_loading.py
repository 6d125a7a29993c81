"""The loader: the same batches with any number of workers, epochs that reach them, errors that name the file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusionerlib.datasets.augment import PRESETS, view
from fusionerlib.datasets.scene import Scene
from fusionerlib.errors import FusionerError
from fusionerlib.images import read_image
from fusionerlib.training.batch_sources import AugmentedScenes, EpochKeys, Loader
from tests.conftest import ROOT
from tests.shapes import Shapes


def views_of(scenes, size: int = 32) -> AugmentedScenes:
    return AugmentedScenes(scenes, augmentation=PRESETS["pascal"], size=size, seed=4)


def digest(loader: Loader) -> list[bytes]:
    return [images.numpy().tobytes() + labels.numpy().tobytes() for images, labels in loader]


class Files:
    """Scenes from image files on disk, as a data set of photographs reads them."""

    fingerprint = "files"

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def names(self, index: int) -> tuple[str, ...]:
        return ("thing",)

    def __getitem__(self, index: int) -> Scene:
        image = read_image(self.files[index])
        labels = np.ones(image.shape[:2], dtype=np.uint8)
        return Scene(image=image, labels=labels, names=("thing",), key=self.files[index].stem)


# torch warns where there are more workers than processors.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_and_epochs_are_the_same_with_0_1_and_3_workers() -> None:
    def three_epochs(workers: int) -> list[list[bytes]]:
        loader = Loader(views_of(Shapes(10)), EpochKeys(10, batch=4, seed=7), workers=workers)
        return [digest(loader) for _ in range(3)]

    alone = three_epochs(0)
    assert [len(epoch) for epoch in alone] == [3, 3, 3]
    assert len({batch for epoch in alone for batch in epoch}) == 9
    # The second and third epoch run in workers that the first one started.
    assert three_epochs(1) == alone and three_epochs(3) == alone


def test_a_batch_holds_the_views_at_its_keys() -> None:
    scenes = Shapes(6)
    ((images, labels),) = Loader(views_of(scenes), [[(2, 5), (0, 1)]])
    assert images.shape == (2, 3, 32, 32) and labels.shape == (2, 32, 32)
    assert images.dtype == labels.dtype == torch.uint8
    for row, (epoch, index) in enumerate([(2, 5), (0, 1)]):
        shown = view(scenes[index], augmentation=PRESETS["pascal"], size=32, seed=(4, epoch, index))
        assert np.array_equal(images[row].permute(1, 2, 0).numpy(), shown.image)
        assert np.array_equal(labels[row].numpy(), shown.labels)


def test_an_epoch_asks_for_every_view_once_in_an_order_of_its_own() -> None:
    keys = EpochKeys(11, batch=4, seed=0)
    epochs = [[key for batch in keys for key in batch] for _ in range(3)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(number, index) for index in range(11)]
    assert len({tuple(index for _, index in epoch) for epoch in epochs}) == 3
    assert [key for batch in EpochKeys(11, batch=4, seed=0, epoch=2) for key in batch] == epochs[2]
    assert [len(batch) for batch in keys] == [4, 4, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_s_own_generator_is_not_drawn_from(workers: int) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    digest(Loader(views_of(Shapes(4)), EpochKeys(4, batch=2, seed=0), workers=workers))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_as_it_would_be_here(tmp_path: Path, workers: int) -> None:
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        Image.new("RGB", (40, 30), "green").save(file)
    files[2].write_bytes(files[2].read_bytes()[:60])
    loader = Loader(views_of(Files(files)), [[(0, 0), (0, 1)], [(0, 2), (0, 3)]], workers=workers)
    with pytest.raises(FusionerError, match=r"^image '.*2\.png' can't be read"):
        list(loader)


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(FusionerError, match="workers = -1"):
        Loader(views_of(Shapes(2)), [], workers=-1)


SPAWNED = """
import json, multiprocessing, sys

def main():
    from fusionerlib.config import RunConfig
    from fusionerlib.runs import fit
    small = {"width": 24, "heads": 2, "depth": 1, "decoder_width": 8, "warmup": 0, "size": 64, "batch": 2, "steps": 2}
    online = {"feed": "online", "augmentation": "pascal", "workers": 2, "templates": "none", "preset": "small"}
    run = RunConfig.flat(dataset="folder", root=sys.argv[2], features="features", **small, **online)
    print(json.loads((fit(run, sys.argv[1], quiet=True, device="cpu") / "config.json").read_text())["sha256"])

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    main()
"""


def test_workers_that_are_spawned_make_the_weights_of_forked_ones(tmp_path: Path) -> None:
    """Windows and macOS spawn: the child imports everything anew, and gets scenes and settings pickled."""
    own = tmp_path / "own"
    for part in ("images", "masks"):
        (own / part).mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (80, 64), (40 * number, 9, 9)).save(own / "images" / f"{number}.png")
        Image.fromarray(np.tri(64, 80, dtype=np.uint8)).save(own / "masks" / f"{number}.png")
    (own / "names.txt").write_text("0 background\n1 cat\n")
    (tmp_path / "script.py").write_text(SPAWNED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    weights = [
        subprocess.check_output([sys.executable, "script.py", way, str(own)], cwd=tmp_path, text=True, env=environment)
        for way in ("spawn", "fork")
    ]
    assert len(weights[0].strip()) == 64 and weights[0] == weights[1]
