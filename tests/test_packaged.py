"""The checkpoint in the package: it loads, it answers, it can be made again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.data import chelsea

from fusionerlib import Segmenter, checkpoints, runs
from fusionerlib.checkpoints import load
from fusionerlib.config import FusionConfig, RunConfig
from fusionerlib.models import SegmentationModel
from tests.datasets.test_coco import SHARED


def test_a_cat_is_found_with_no_training_and_no_network() -> None:
    segmenter = Segmenter.load("packaged").set_image(chelsea())
    found = segmenter.segment(["cat", "sofa", "bicycle"])
    cat, sofa, bicycle = found.masks.mean((1, 2))
    # The cat's head and shoulders fill most of the picture.
    assert cat > 0.3 and sofa < 0.1 and bicycle < 0.02
    assert found.masks[0][150:250, 150:300].mean() > 0.9
    alone = segmenter.segment(["cat"])
    torch.testing.assert_close(alone.logits[0], found.logits[0], atol=1e-4, rtol=1e-4)


def test_it_is_small_and_says_what_it_was_trained_on() -> None:
    files = sorted(file.name for file in checkpoints.packaged_folder().iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert sum(file.stat().st_size for file in checkpoints.packaged_folder().iterdir()) < 15e6
    checkpoint = load(checkpoints.packaged_folder())
    assert checkpoint.run.data.fold == -1 and len(checkpoint.trained_names) >= 80
    assert {"cat", "couch", "person"} <= set(checkpoint.trained_names)
    assert all(not path.is_absolute() for path in (checkpoint.run.data.root, checkpoint.run.data.features))
    weights = load_file(checkpoints.packaged_folder() / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float16", "torch.float32"}


def test_half_precision_is_for_parameters_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = BatchNormed()
    run = RunConfig()
    checkpoints.save(tmp_path, model=model, run=run, trained_names=["cat"], number_format=torch.half)
    kept = load_file(tmp_path / "model.safetensors")
    assert np.array_equal(kept["norm.weight"].numpy(), np.float16([0.1, 3.14159]))
    assert (
        kept["norm.running_mean"].tolist() == [np.float32(1e-9), 2.0]
        and kept["norm.running_mean"].dtype == torch.float32
    )
    assert model.norm.weight.dtype == torch.float32 and not list(tmp_path.glob("*.part"))
    checkpoints.save(tmp_path, model=model, run=run, trained_names=["cat"])
    assert load_file(tmp_path / "model.safetensors")["norm.weight"].tolist() == [np.float32(0.1), np.float32(3.14159)]


class BatchNormed(SegmentationModel):
    """Two parameters of two numbers each, and statistics."""

    def __init__(self) -> None:
        super().__init__(FusionConfig(preset="small"), visual_width=2, text_width=2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.norm.weight.data = torch.tensor([0.1, 3.14159])
        self.norm.running_mean = torch.tensor([1e-9, 2.0])


@pytest.mark.skipif(not SHARED.is_dir(), reason="reduced copies of VOC and COCO are not on this machine")
def test_it_can_be_made_again(tmp_path: Path) -> None:
    run = runs.packaged_run(
        voc=small_voc(tmp_path), coco=small_coco(tmp_path), features=tmp_path / "features", steps=2, size=64
    )
    target = runs.train_packaged(run, tmp_path / "made", quiet=True)
    made = Segmenter.load(target)
    assert made.set_image(chelsea()).segment(["cat"]).logits.shape == (1, 300, 451)
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "model.safetensors"]
    weights = load_file(target / "model.safetensors")
    kinds = {name: tensor.dtype for name, tensor in weights.items()}
    assert kinds == {
        name: t.dtype for name, t in load_file(checkpoints.packaged_folder() / "model.safetensors").items()
    }
    assert {"cat", "dining table"} <= set(load(target).trained_names) and str(tmp_path) not in (
        target / "config.json"
    ).read_text()


def small_voc(root: Path) -> Path:
    """Six training images that show a cow or a cat."""
    from fusionerlib.datasets.pascal import Pascal5i

    mini = SHARED / "voc-mini"
    scenes = Pascal5i(mini, fold=-1, split="train")
    there = list(dict.fromkeys(scenes.keys[scene] for scene, name in scenes.pairs if name in ("cow", "cat")))[:6]
    for folder, suffix, source in (
        ("JPEGImages", ".jpg", mini / "VOCdevkit/VOC2012/JPEGImages"),
        ("SegmentationClassAug", ".png", mini / "SegmentationClassAug"),
    ):
        (root / "voc" / folder).mkdir(parents=True)
        for key in there:
            (root / "voc" / folder / f"{key}{suffix}").symlink_to((source / f"{key}{suffix}").resolve())
    # Of the validation lists there must be one image too.
    key = next(key for key in ("2007_000464", "2007_000452") if (mini / f"SegmentationClassAug/{key}.png").is_file())
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(root / f"voc/JPEGImages/{key}.jpg")
    Image.fromarray(np.full((40, 50), 10, dtype=np.uint8)).save(root / f"voc/SegmentationClassAug/{key}.png")
    return root / "voc"


def small_coco(root: Path) -> Path:
    """The first images of the reduced COCO, by links."""
    folder = root / "coco"
    folder.mkdir()
    mini = SHARED / "coco-mini"
    for part in mini.iterdir():
        if part.name == "annotations":
            (folder / "annotations").symlink_to(part.resolve())
    images = sorted(mini.rglob("*.jpg"))[:4]
    (folder / "images").mkdir()
    for image in images:
        (folder / "images" / image.name).symlink_to(image.resolve())
    return folder
