"""The baselines against the same sums in numpy and plain torch, their gradients, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fusionerlib.config import FusionConfig, RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.models import build
from fusionerlib.training.optimisers import make_optimiser

GRID, SIZE = (2, 3), (16, 24)
BASELINES = ("lseg", "spnet", "training_free")


def made(kind: str, *, visual: int = 10, text: int = 7, **changes):
    torch.manual_seed(3)
    config = FusionConfig(preset="small", kind=kind, width=24, heads=3, decoder_width=8, **changes)
    model = build(config, visual_width=visual, text_width=text).eval()
    patches = F.normalize(torch.randn(2, 6, visual), dim=-1)
    return model, patches, torch.randn(2, 3, text)


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, corners not aligned, each side a matrix of weights worked out by hand: maps (K, h, w)."""

    def weights(old: int, new: int) -> np.ndarray:
        rows = np.zeros((new, old))
        for place in range(new):
            at = min(max((place + 0.5) * old / new - 0.5, 0), old - 1)
            low = int(at)
            rows[place, low] += 1 - (at - low)
            rows[place, min(low + 1, old - 1)] += at - low
        return rows

    return np.einsum("yh,khw,xw->kyx", weights(maps.shape[1], size[0]), maps, weights(maps.shape[2], size[1]))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_spnet_is_a_matrix_and_a_product() -> None:
    model, patches, words = made("spnet", logit_bias=-2.0)
    weight, bias = (
        tensor.detach().numpy().astype(float) for tensor in (model.projection.weight, model.projection.bias)
    )
    found = model(patches, words, grid=GRID, size=SIZE).detach().numpy()
    for image in range(2):
        projected = patches[image].numpy() * np.sqrt(10) @ weight.T + bias
        maps = (unit(words[image].numpy()) @ projected.T).reshape(3, *GRID)
        np.testing.assert_allclose(found[image], enlarged(maps, SIZE) - 2, atol=1e-5)
    assert model.trainable() == {"fusion": 7 * 10 + 7 + 1, "decoder": 0, "total": 78}


def test_training_free_is_a_cosine_and_two_constants() -> None:
    model, patches, words = made("training_free", temperature=0.05, offset=0.1)
    found = model(patches, words, grid=GRID, size=SIZE).numpy()
    for image in range(2):
        # The last 7 of 10 channels are in the space of the words.
        cosine = (unit(words[image].numpy()) @ unit(patches[image].numpy()[:, 3:]).T).reshape(3, *GRID)
        np.testing.assert_allclose(found[image], enlarged((cosine - 0.1) / 0.05, SIZE), atol=1e-4)
        alike = model.similarity(patches, words, grid=GRID)[image].numpy()
        np.testing.assert_allclose(alike, cosine, atol=1e-6)
    assert model.trainable()["total"] == 0 and not model.state_dict()


@pytest.mark.parametrize("upsample", ["logits", "features"])
def test_lseg_is_projection_decoder_cosine_and_blocks(upsample: str) -> None:
    model, patches, words = made("lseg", logit_bias=-1.0, upsample=upsample)
    for block in model.blocks:
        torch.nn.init.normal_(block.weight, std=0.2)
        torch.nn.init.constant_(block.bias, 0.3)
    w = model.state_dict()
    tokens = F.linear(F.layer_norm(patches, (10,)), w["projection.1.weight"], w["projection.1.bias"])
    features = tokens.transpose(1, 2).reshape(2, 7, *GRID)
    for index in range(2):
        if index:
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        own = (w[f"decoder.convolutions.{index}.{part}"] for part in ("weight", "bias"))
        features = F.relu(F.instance_norm(F.conv2d(features, *own, padding=1)))
    features = F.conv2d(features, w["decoder.last.weight"], w["decoder.last.bias"])
    if upsample == "features":
        features = F.interpolate(features, size=SIZE, mode="bilinear", align_corners=False)
    maps = F.cosine_similarity(features[:, None], words[..., None, None], dim=2) / 0.07
    for index in range(2):
        # Every name's map by itself, with the one kernel.
        smoothed = [F.conv2d(m[:, None].relu(), w[f"blocks.{index}.weight"], padding=1)[:, 0] for m in maps.unbind(1)]
        maps = maps + torch.stack(smoothed, dim=1) + 0.3
    if upsample == "logits":
        maps = F.interpolate(maps, size=SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(patches, words, grid=GRID, size=SIZE), maps - 1, atol=1e-4, rtol=1e-4)


def test_lsegs_blocks_start_as_no_change() -> None:
    model, patches, words = made("lseg", logit_bias=0.0)
    plain = model.similarity(patches, words, grid=GRID) / 0.07
    expected = F.interpolate(plain, size=SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(patches, words, grid=GRID, size=SIZE), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lseg", "spnet"])
def test_a_gradient_reaches_every_parameter(kind: str) -> None:
    model, patches, words = made(kind)
    model.train()(patches, words, grid=GRID, size=SIZE).square().mean().backward()
    # A bias before an instance norm has no effect.
    reached = {
        name: parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        for name, parameter in model.named_parameters()
        if not (name.startswith("decoder.convolutions") and name.endswith("bias"))
    }
    assert reached and all(reached.values()), reached


@pytest.mark.parametrize("kind", BASELINES)
def test_no_name_changes_another(kind: str) -> None:
    model, patches, words = made(kind)
    alone = [model(patches, words[:, k : k + 1], grid=GRID, size=SIZE) for k in range(3)]
    torch.testing.assert_close(model(patches, words, grid=GRID, size=SIZE), torch.cat(alone, dim=1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", BASELINES)
def test_tokens_of_another_width_are_refused(kind: str) -> None:
    model, patches, words = made(kind)
    for wrong in ((patches[..., :9], words), (patches, words[..., :6])):
        with pytest.raises(FusionerError, match="wide, this model was trained on"):
            model(*wrong, grid=GRID, size=SIZE)


def test_a_loop_that_trains_training_free_changes_nothing() -> None:
    model, patches, words = made("training_free")
    before = model(patches, words, grid=GRID, size=SIZE)
    optimiser = make_optimiser(model.train(), RunConfig().training)
    model(patches, words, grid=GRID, size=SIZE).sum().backward()
    optimiser.step()
    torch.testing.assert_close(model.eval()(patches, words, grid=GRID, size=SIZE), before)


def test_words_that_do_not_fit_into_patches_are_refused() -> None:
    with pytest.raises(
        FusionerError, match=r"5 channels can't end in the 7 channels of the text tokens: .*'conse'.*'fusioner'"
    ):
        made("training_free", visual=5)


@pytest.mark.parametrize("kind", ["fusioner", "late"])
def test_without_the_modality_vector_words_are_only_projected(kind: str) -> None:
    (plain, patches, words), (without, _, _) = made(kind), made(kind, modality=False)
    assert plain.trainable()["total"] - without.trainable()["total"] == 24
    state = {name: tensor for name, tensor in plain.state_dict().items() if name != "category"}
    without.load_state_dict(state, strict=True)
    torch.testing.assert_close(without.project(patches, words)[1] + plain.category, plain.project(patches, words)[1])
    optimiser = make_optimiser(without, RunConfig().training)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(without.parameters()))
