"""The paper's model written a second time, straight from its table and with plain functions, against the library's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusionerlib.config import FusionConfig
from fusionerlib.models import build

TEMPERATURE, DEPTH, HEADS = 0.07, 12, 8


def layer_norm(x: Tensor, w: dict[str, Tensor], name: str, eps: float) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def reference(
    w: dict[str, Tensor], patches: Tensor, words: Tensor, grid: tuple, size: tuple, drift: str = ""
) -> Tensor:
    """One image: patches (N, Dv), words (K, Dt) to logits (K, H, W). ``drift`` is a wrong reading of the table."""
    eps, width = 1e-6 if drift == "eps" else 1e-5, w["category"].shape[1]
    corners = drift == "align_corners"

    def linear(x: Tensor, name: str, bias: bool = True) -> Tensor:
        out = x @ w[f"{name}.weight"].T
        return out + w[f"{name}.bias"] if bias else out

    def resized(x: Tensor, to: tuple) -> Tensor:
        return F.interpolate(x[None], size=to, mode="bilinear", align_corners=corners)[0]

    def gelu(x: Tensor) -> Tensor:
        if drift == "tanh":
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    visual = layer_norm(patches, w, "visual_projection.0", eps)
    visual = layer_norm(linear(visual, "visual_projection.1"), w, "visual_projection.2", eps)
    text = linear(layer_norm(words, w, "text_projection.0", eps), "text_projection.1") + w["category"]
    tokens = torch.cat([visual, text])
    for index in range(DEPTH):
        block = f"transformer.blocks.{index}"
        qkv = linear(layer_norm(tokens, w, f"{block}.norm1", eps), f"{block}.attention.qkv", bias=drift != "qkv_bias")
        query, key, value = qkv.split(width, dim=-1)
        heads = []
        for head in range(HEADS):
            part = slice(head * width // HEADS, (head + 1) * width // HEADS)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width / HEADS)
            heads.append(torch.softmax(scores, -1) @ value[:, part])
        tokens = tokens + linear(torch.cat(heads, -1), f"{block}.attention.out")
        hidden = gelu(linear(layer_norm(tokens, w, f"{block}.norm2", eps), f"{block}.mlp.0"))
        tokens = tokens + linear(hidden, f"{block}.mlp.2")
    tokens = layer_norm(tokens, w, "transformer.norm", eps)
    visual, text = tokens[: len(patches)] @ w["patch_matrix"], tokens[len(patches) :] @ w["word_matrix"]

    features = visual.T.reshape(width, *grid)
    for index, scale in enumerate((2, 4, 8, None)):
        weight, bias = w[f"decoder.convolutions.{index}.weight"], w[f"decoder.convolutions.{index}.bias"]
        features = F.conv2d(features[None], weight, bias, padding=1)[0]
        mean = features.mean((1, 2), keepdim=True)
        variance = features.var((1, 2), unbiased=False, keepdim=True)
        features = torch.clamp((features - mean) / torch.sqrt(variance + 1e-5), min=0)
        if scale:
            features = resized(features, (grid[0] * scale, grid[1] * scale))
    features = torch.einsum("oc,chw->ohw", w["decoder.last.weight"][:, :, 0, 0], features)
    features = features + w["decoder.last.bias"][:, None, None]
    if drift != "logits":
        features = resized(features, size)
    unit = features / features.norm(dim=0, keepdim=True)
    text = text / text.norm(dim=-1, keepdim=True)
    logits = torch.einsum("kc,chw->khw", text, unit) / TEMPERATURE
    return resized(logits, size) if drift == "logits" else logits


def made(width: int):
    """The paper's model at ``width`` with random norms and biases, where a forgotten affine would show."""
    torch.manual_seed(0)
    model = build(FusionConfig(width=width), visual_width=768, text_width=768).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "projection.0" in name or "projection.2" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(grid: tuple[int, int], *, constant: bool) -> tuple[Tensor, Tensor]:
    """Tokens of two images and three names. constant: but for one corner all patches of an image are the same, as in a
    sliding window that lies mostly beyond the image's border."""
    patches, words = torch.randn(2, *grid, 768), torch.randn(2, 3, 768)
    if constant:
        kept = patches[:, : max(1, grid[0] // 3), : max(1, grid[1] // 3)].clone()
        patches[:] = patches[:, -1:, -1:].clone()
        patches[:, : kept.shape[1], : kept.shape[2]] = kept
    return F.normalize(patches.flatten(1, 2), dim=-1), F.normalize(words, dim=-1)


@pytest.fixture(scope="module")
def case():
    model = made(512)
    patches, words = inputs((4, 5), constant=False)
    with torch.no_grad():
        logits = model(patches, words, grid=(4, 5), size=(56, 70))
    return model, patches, words, logits


def distance(case, drift: str) -> float:
    model, patches, words, logits = case
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = torch.stack([reference(weights, patches[i], words[i], (4, 5), (56, 70), drift) for i in range(2)])
    return float((logits - expected).abs().max())


def test_logits_equal_a_second_writing_of_the_table(case) -> None:
    assert distance(case, "") < 1e-4


@pytest.mark.parametrize("drift", ["align_corners", "qkv_bias", "logits", "eps", "tanh"])
def test_each_known_drift_would_be_noticed(case, drift: str) -> None:
    assert distance(case, drift) > 2e-4


@pytest.mark.parametrize(
    ("width", "grid", "constant"),
    [
        (64, (14, 14), False),
        (64, (14, 14), True),
        (64, (5, 19), False),
        (64, (5, 19), True),
        (64, (9, 2), True),
        (512, (4, 6), True),
    ],
)
def test_logits_keep_their_digits(width: int, grid: tuple[int, int], constant: bool) -> None:
    model = made(width)
    patches, words = inputs(grid, constant=constant)
    size, exact = (grid[0] * 16, grid[1] * 16), {k: v.double() for k, v in model.state_dict().items()}
    with torch.no_grad():
        expected = torch.stack([reference(exact, patches[i].double(), words[i].double(), grid, size) for i in range(2)])
        single = model(patches, words, grid=grid, size=size)
        double = model.double()(patches.double(), words.double(), grid=grid, size=size)
    assert float((single - expected).abs().max()) < 1e-4
    assert float((double - expected).abs().max()) < 1e-10


def test_paper_configuration_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = build(FusionConfig(), visual_width=768, text_width=768).trainable()
    assert counts == {"fusion": 39_145_984, "decoder": 9_701_888, "total": 48_847_872}
