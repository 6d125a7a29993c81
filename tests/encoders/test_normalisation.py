"""A normalisation of the user's own in every family: against the published one on pixels that undo the difference."""

import pytest
import timm
import torch
from torch import Tensor

from fusionerlib.encoders.base import VisualTower
from fusionerlib.encoders.registry import load_visual
from fusionerlib.errors import FusionerError
from tests.encoders import open_clip_models
from tests.encoders.open_clip_models import TINY_VIT
from tests.encoders.vision_models import images, saved, shaken

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, and so of none of the three."""


def network_input(tower: VisualTower, pixels: Tensor) -> Tensor:
    """What the tower's network is given."""
    seen: list[Tensor] = []
    handle = tower.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tower(pixels)
    handle.remove()
    return seen[0]


@pytest.fixture(params=["packaged", "CLIP", "timm"])
def load(request, folder, tmp_path):
    """The loader of a visual encoder of one family, with options."""
    if request.param == "packaged":
        return lambda **options: load_visual("packaged", **options)
    if request.param == "CLIP":
        return lambda **options: open_clip_models.load(folder, TINY_VIT, **options)
    state = shaken(timm.create_model("test_vit.r160_in1k")).state_dict()
    file = str(saved(state, tmp_path / "model.safetensors"))
    return lambda **options: load_visual("timm:test_vit.r160_in1k", weights=file, **options)


def test_pixels_are_normalised_as_the_options_say(load) -> None:
    pixels = images((1, 3, 64, 96))
    published, own = load(), load(mean=MEAN, std=STD)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(network_input(own, pixels), (pixels / 255 - mean) / std)
    assert torch.equal(own.mean, mean) and torch.equal(own.std, std)
    assert not torch.allclose(own(pixels).main.tokens, published(pixels).main.tokens, atol=1e-3)
    # One of the two alone leaves the other as published.
    assert torch.equal(load(std=STD).mean, published.mean) and torch.equal(load(mean=MEAN).std, published.std)


def test_a_normalisation_makes_another_encoder(load) -> None:
    towers = [load(), load(mean=MEAN), load(std=STD), load(mean=MEAN, std=STD)]
    assert len({tower.fingerprint for tower in towers}) == 4
    same = load(mean=tuple(towers[0].mean.flatten().tolist()), std=tuple(towers[0].std.flatten().tolist()))
    assert torch.equal(same(images((1, 3, 64, 64))).main.tokens, towers[0](images((1, 3, 64, 64))).main.tokens)


def test_a_deviation_of_zero_is_refused(load) -> None:
    with pytest.raises(FusionerError, match=r"std is \(0\.2, 0\.0, 0\.2\), expected three values above 0"):
        load(std=(0.2, 0.0, 0.2))
