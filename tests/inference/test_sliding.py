"""Inference by windows: one window is the whole image, several are each window on its own, averaged."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.data import chelsea

from fusionerlib import Segmenter
from fusionerlib.config import FusionConfig
from fusionerlib.datasets.scene import Scene
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import predict_windows, score
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import build

NAMES = ("cat", "grass", "sky")
SIZE, STRIDE = 64, 40


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    visual, text = load_visual("packaged"), load_text("packaged")
    model = build(FusionConfig(preset="small", width=24, heads=2, depth=1), visual_width=432, text_width=384).eval()
    return {"model": model, "visual": visual, "text_cache": TextEmbeddingCache(encoder=text, templates=["{}"])}


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(chelsea()[100:190, 120:270])


class OneScene:
    """A data set of one scene."""

    fingerprint = "one"

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Scene:
        return self.scene

    def names(self, index: int) -> tuple[str, ...]:
        return self.scene.names


def by_hand(parts, photo: np.ndarray, stride: int) -> torch.Tensor:
    """The normalised image padded with -1, every window of it through network and model alone."""
    height, width = photo.shape[:2]
    rows, columns = (-(-(side - SIZE) // stride) + 1 for side in (height, width))
    normal = (torch.from_numpy(photo).permute(2, 0, 1).float() - 127) / 128
    grown = F.pad(normal, (0, 500, 0, 500), value=-1.0)
    words = parts["text_cache"].tokens(NAMES)[None]
    total, times = torch.zeros(3, height + 500, width + 500), torch.zeros(height + 500, width + 500)
    for top, left in ((row * stride, column * stride) for row in range(rows) for column in range(columns)):
        with torch.no_grad():
            features = next(
                iter(parts["visual"].network(grown[None, :, top : top + SIZE, left : left + SIZE]).values())
            )
            tokens = F.normalize(features.flatten(2).transpose(1, 2), dim=-1)
            total[:, top : top + SIZE, left : left + SIZE] += parts["model"](
                tokens, words, grid=tuple(features.shape[-2:]), size=(SIZE, SIZE)
            )[0]
        times[top : top + SIZE, left : left + SIZE] += 1
    return (total / times)[:, :height, :width]


def test_windows_are_each_window_on_its_own_averaged(parts, photo) -> None:
    found = Segmenter(**parts, size=SIZE, stride=STRIDE).set_image(photo).segment(NAMES)
    assert found.logits.shape == (3, *photo.shape[:2])
    torch.testing.assert_close(found.logits, by_hand(parts, photo, STRIDE), atol=1e-4, rtol=1e-4)


def test_an_image_of_one_window_is_taken_as_it_is(parts, photo) -> None:
    square = photo[:SIZE, :SIZE]
    whole, slid = (
        Segmenter(**parts, size=SIZE, stride=stride).set_image(square).segment(NAMES) for stride in (None, STRIDE)
    )
    torch.testing.assert_close(whole.logits, slid.logits, atol=1e-5, rtol=0)


def test_an_evaluation_by_windows_is_at_the_images_own_size(parts, photo) -> None:
    labels = np.zeros(photo.shape[:2], dtype=np.uint8)
    labels[20:60, 30:100], labels[:5] = 1, 255
    scenes = OneScene(Scene(image=photo, labels=labels, names=("cat",), key="chelsea"))
    queries = [Query(0, ("cat",)), Query(0, ("sky", "cat"))]
    answers = list(
        predict_windows(parts["model"], scenes, parts["text_cache"], queries, visual=parts["visual"], window=64)
    )
    expected = Segmenter(**parts, size=64, stride=42).set_image(photo).segment(["sky", "cat"]).probabilities
    np.testing.assert_allclose(answers[1][1], expected, atol=1e-5)
    np.testing.assert_array_equal(answers[0][2], labels)
    np.testing.assert_array_equal(answers[1][2], np.where(labels == 1, 2, labels))
    assert score(answers, present=lambda index: ("cat",)).figures()["scenes"] == 2


def test_what_windows_can_not_do_is_told(parts, photo) -> None:
    with pytest.raises(FusionerError, match="stride 80 with size 64"):
        Segmenter(**parts, size=64, stride=80)
    with pytest.raises(FusionerError, match="stride 8 with size None"):
        Segmenter(**parts, size=None, stride=8)
    with pytest.raises(FusionerError, match="stride=None"):
        Segmenter(**parts, size=SIZE, stride=STRIDE).set_image(photo).attention(NAMES)
