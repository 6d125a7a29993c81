"""The recipe ``bmvc2022``, point by point, beside a second, plain writing of the paper's table in float64."""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from fusionerlib.config import RunConfig
from fusionerlib.datasets.augment import PRESETS, Augmentation
from fusionerlib.datasets.sampling import NameSampler, SampleOrder
from fusionerlib.encoders.prompts import templates
from fusionerlib.encoders.registry import load_text
from fusionerlib.features.context import RunContext
from fusionerlib.features.text import TextEmbeddingCache, visual_of
from fusionerlib.models import build
from fusionerlib.training.batch_sources import Batch, OnlineBatchSource
from fusionerlib.training.loop import train
from fusionerlib.training.optimisers import make_optimiser, set_schedule
from fusionerlib.training.steps import in_steps
from tests.launched import Squares
from tests.shapes import Shapes

SMALL = {"width": 16, "heads": 2, "depth": 2}
STILL = Augmentation(
    jitter=0.0, hue=0.0, rotation=0.0, crop=0.0, several=0.0, noise=None, elastic=None, shift=0.0, scale=0.0
)
"""No augmentation: of an image that has the view's size, the image itself."""


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Kept(OnlineBatchSource):
    """The recipe's own batch source, its tokens in float64; it keeps what it gave."""

    def batches(self, order: SampleOrder, steps: range) -> Generator[Batch, None, None]:
        self.given: list[Batch] = []
        for batch in super().batches(order, steps):
            self.given.append(replace(batch, tokens=batch.tokens.double()))
            yield self.given[-1]


def plain_logits(w: dict[str, Tensor], patches: Tensor, word: Tensor, size: tuple[int, int]) -> Tensor:
    """One image: patches (h, w, Dv) and the one word asked (Dt) to logits (H, W), as the paper's table says."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    rows, columns, width = *patches.shape[:2], SMALL["width"]
    visual = norm(
        linear(norm(patches.flatten(0, 1), "visual_projection.0"), "visual_projection.1"), "visual_projection.2"
    )
    text = linear(norm(word[None], "text_projection.0"), "text_projection.1") + w["category"]
    tokens = torch.cat([visual, text])
    for index in range(SMALL["depth"]):
        block = f"transformer.blocks.{index}"
        qkv = linear(norm(tokens, f"{block}.norm1"), f"{block}.attention.qkv")
        heads = [part.split(width // SMALL["heads"], dim=-1) for part in qkv.split(width, dim=-1)]
        mixed = [
            torch.softmax(q @ k.T / math.sqrt(width / SMALL["heads"]), dim=-1) @ v
            for q, k, v in zip(*heads, strict=True)
        ]
        tokens = tokens + linear(torch.cat(mixed, dim=-1), f"{block}.attention.out")
        hidden = F.gelu(linear(norm(tokens, f"{block}.norm2"), f"{block}.mlp.0"))
        tokens = tokens + linear(hidden, f"{block}.mlp.2")
    tokens = norm(tokens, "transformer.norm")
    visual, text = tokens[:-1] @ w["patch_matrix"], tokens[-1:] @ w["word_matrix"]
    features = visual.T.reshape(1, width, rows, columns)
    for index, scale in enumerate((2, 4, 8, None)):
        name = f"decoder.convolutions.{index}"
        features = F.relu(F.instance_norm(F.conv2d(features, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)))
        if scale:
            features = F.interpolate(features, (rows * scale, columns * scale), mode="bilinear")
    features = F.conv2d(features, w["decoder.last.weight"], w["decoder.last.bias"])
    features = F.interpolate(features, size, mode="bilinear")[0]
    return torch.einsum("c,chw->hw", F.normalize(text[0], dim=0), F.normalize(features, dim=0)) / 0.07


def plain_loss(w: dict[str, Tensor], batch: Batch, text_tokens: dict[str, Tensor]) -> Tensor:
    """Binary cross-entropy, the mean of an image's valid pixels, then of the images."""
    losses = []
    for tokens, labels, names, sample in zip(batch.tokens, batch.labels, batch.names, batch.samples, strict=True):
        (name,) = sample.names
        logits = plain_logits(w, tokens, text_tokens[name], labels.shape)
        right = (labels == names.index(name) + 1).double()
        pixels = -right * F.logsigmoid(logits) - (1 - right) * F.logsigmoid(-logits)
        losses.append(pixels[labels != 255].mean())
    return torch.stack(losses).mean()


def plain_schedules(steps: int, warmup: int) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and weight decay of the fusion, an element a step."""
    rest = np.arange(steps - warmup)
    falling = 2e-6 + 0.5 * (1e-3 - 2e-6) * (1 + np.cos(np.pi * rest / len(rest)))
    decay = 0.4 + 0.5 * (0.01 - 0.4) * (1 + np.cos(np.pi * np.arange(steps) / steps))
    return np.concatenate([np.linspace(0, 1e-3, warmup), falling]), decay


def plain_training(w: dict[str, Tensor], batches: list[Batch], text_tokens: dict[str, Tensor], warmup: int) -> None:
    """AdamW on the fusion and Adam on the decoder, written out, changing ``w``."""
    rates, decays = plain_schedules(len(batches), warmup)
    first, second = ({name: torch.zeros_like(value) for name, value in w.items()} for _ in range(2))
    for step, batch in enumerate(batches):
        gradients = torch.autograd.grad(plain_loss(w, batch, text_tokens), list(w.values()))
        for (name, value), gradient in zip(w.items(), gradients, strict=True):
            decoder = name.startswith("decoder.")
            rate = 1e-3 if decoder else rates[step]
            decay = 0.0 if decoder or value.ndim == 1 else decays[step]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            with torch.no_grad():
                value.mul_(1 - rate * decay).sub_(rate * mean / (square.sqrt() + 1e-8))


def test_ten_steps_of_the_recipe_end_at_the_plain_writing_s_weights(
    doubles: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "pascal", STILL)
    run = RunConfig.flat(preset="bmvc2022", recipe="bmvc2022", batch=5, epochs=5, warmup_epochs=2, workers=0, **SMALL)
    source = Kept(Shapes(5), encoder=Squares(), augmentation="pascal", size=64)
    text_cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=templates("openai"))
    model, history = train(run=run, source=source, text_cache=text_cache, directory=tmp_path, quiet=True)
    assert [len(batch.samples) for batch in source.given] == [5, 3] * 5
    for epoch in range(5):
        asked = [(s.scene, *s.names) for batch in source.given[2 * epoch : 2 * epoch + 2] for s in batch.samples]
        assert sorted(asked) == sorted(source.pairs()), "every pair once an epoch, for its own name alone"
    for batch in source.given:
        for labels, sample in zip(batch.labels, batch.samples, strict=True):
            assert np.array_equal(labels.numpy(), Shapes(5)[sample.scene].labels)

    torch.manual_seed(run.training.seed)
    start = build(run.fusion, visual_width=source.width, text_width=text_cache.encoder.width)
    weights = {name: value.detach().clone().requires_grad_() for name, value in start.named_parameters()}
    before = {name: value.detach().clone() for name, value in weights.items()}
    text_tokens = {name: text_cache.tokens([name])[0].double() for _, name in source.pairs()}
    plain_training(weights, source.given, text_tokens, warmup=4)
    assert history[0]["lr"] == 0.0 and history[3]["lr"] == history[4]["lr"] == 1e-3
    for name, value in model.named_parameters():
        assert value.dtype == torch.float64
        end = weights[name].detach()
        moved = float((end - before[name]).abs().max())
        # An InstanceNorm takes the bias of the convolution before it out again.
        assert moved > 1e-6 or (name.endswith("bias") and name.startswith("decoder.convolutions")), name
        assert float((value.detach() - end).abs().max()) < 1e-9 * max(1.0, moved), name


def test_learning_rate_and_decay_are_the_paper_s_in_every_step() -> None:
    run = in_steps(RunConfig.flat(preset="bmvc2022", batch=16, epochs=30, warmup_epochs=4, **SMALL), pairs=100)
    assert (run.training.steps, run.training.warmup) == (30 * 7, 4 * 7)
    optimiser = make_optimiser(build(run.fusion, visual_width=8, text_width=8), run.training)
    fusion, plain, decoder = optimiser.param_groups
    rates, decays = plain_schedules(30 * 7, 4 * 7)
    for step, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
        set_schedule(optimiser, run.training, step)
        assert (fusion["lr"], plain["lr"], decoder["lr"]) == pytest.approx((rate, rate, 1e-3), rel=1e-12)
        assert (fusion["weight_decay"], plain["weight_decay"], decoder["weight_decay"]) == pytest.approx((decay, 0, 0))
    assert rates[27] == rates[28] == rates.max() == 1e-3


def test_every_epoch_goes_through_all_pairs_and_ends_with_what_is_left() -> None:
    pairs = [(index, "a") for index in range(10)]
    sampler = NameSampler(["a"], positives=1, negatives=0, hard=0.0)
    order = SampleOrder(pairs, [("a",)] * 10, sampler=sampler, batch=4, seed=3, whole_epochs=True)
    epochs = [[[s.scene for s in order.samples(3 * epoch + step)] for step in range(3)] for epoch in range(4)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(scene for batch in epoch for scene in batch) == list(range(10))
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 4
    assert [order.draws(step) for step in (2, 3)] == [range(8, 10), range(10, 14)]
    alike = SampleOrder(pairs, [("a",)] * 10, sampler=sampler, batch=4, seed=3)
    assert [len(alike.samples(step)) for step in range(6)] == [4] * 6


def test_the_recipe_is_the_authors_run() -> None:
    """The paper's table, and what the authors' runs do beside it."""
    table: dict[str, Any] = {
        "batch": 32, "epochs": 510, "warmup_epochs": 10, "positives": 1, "negatives": 0, "balanced": False,
        "loss": "bce", "loss_stride": 1, "lr": 1e-3, "final_lr": 2e-6, "weight_decay": 0.01, "final_weight_decay": 0.4,
        "decoder_constant": True, "text_noise": 0.0, "mixed_precision": "no", "feed": "online", "size": 224,
        "width": 512, "depth": 12, "heads": 8, "dropout": 0.0, "logit_bias": 0.0, "temperature": 0.07, "novel": "",
        "synonyms": "", "templates": "openai", "names": "identifiers", "precision": "float32",
    }  # fmt: skip
    for dataset in ("pascal", "coco"):
        run = RunConfig.flat(preset="bmvc2022", recipe="bmvc2022", dataset=dataset)
        assert {leaf: run.leaves[leaf] for leaf in table} == table
        assert (run.pair.normalisation, run.training.augmentation) == (dataset, dataset)
        assert RunConfig.flat(preset="bmvc2022", dataset=dataset) == run, "the preset brings the recipe of its name"
        given = RunConfig.flat(preset="bmvc2022", dataset=dataset, templates="own.txt", names="words", steps=9)
        assert (given.pair.templates, given.data.names, given.training.epochs) == ("own.txt", "words", 0)
    elsewhere = RunConfig.flat(preset="small", dataset="pascal")
    assert (elsewhere.pair.normalisation, elsewhere.data.names, elsewhere.training.feed) == (
        "encoder",
        "words",
        "stored",
    )


def test_a_recipe_takes_what_it_gave_the_encoders_with_it() -> None:
    paper = RunConfig.flat(preset="bmvc2022", dataset="pascal")
    assert paper.changed(dataset="coco") == RunConfig.flat(preset="bmvc2022", dataset="coco")
    assert paper.changed(recipe="small") == RunConfig.flat(preset="bmvc2022", recipe="small", dataset="pascal")
    resolved = in_steps(paper, pairs=5883)
    assert (resolved.training.steps, resolved.training.epochs) == (510 * 184, 510)
    assert resolved.changed(seed=1).training == resolved.training.model_copy(update={"seed": 1})
    assert in_steps(resolved.changed(batch=16), pairs=5883).training.steps == 510 * 368
    assert (resolved.changed(steps=20).training.epochs, resolved.changed(warmup=3).training.warmup_epochs) == (0, 0)


def test_the_recipe_s_templates_are_openclip_s_published_set() -> None:
    assert templates("openai") == tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    encoder = load_text("packaged")
    cache = TextEmbeddingCache(encoder=encoder, templates=templates("openai"))
    each = [encoder(["cat"], [template("{}")])[0] for template in OPENAI_IMAGENET_TEMPLATES]
    mean = torch.stack([token / token.norm() for token in each]).mean(0)
    assert torch.allclose(cache.tokens(["cat"])[0], mean / mean.norm(), atol=1e-5)


PAPER = {
    "pascal": ([0.4554, 0.4298, 0.3955], [0.1181, 0.1189, 0.1338]),
    "coco": ([0.4650, 0.4357, 0.3973], [0.1152, 0.1153, 0.1352]),
}
"""Mean and standard deviation of the paper's normalisation."""


@pytest.mark.parametrize("dataset", ["pascal", "coco"])
def test_pixels_reach_the_tower_by_the_paper_s_mean_and_deviation_and_minus_one_outside(dataset: str) -> None:
    tower: Any = visual_of(RunConfig.flat(preset="bmvc2022", dataset=dataset).pair)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outside = torch.zeros(2, 64, 64, dtype=torch.bool)
    outside[1, 40:] = outside[1, :, 50:] = True
    seen: list[Tensor] = []
    handle = tower.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(images, outside=outside)
    handle.remove()
    for channel, (mean, deviation) in enumerate(zip(*PAPER[dataset], strict=True)):
        expected = (images[:, channel].double() / 255 - mean) / deviation
        found = seen[0][:, channel]
        assert torch.allclose(found[~outside].double(), expected[~outside], atol=1e-5)
        assert (found[outside] == -1).all()


class Listening:
    """A text encoder that remembers what it was given."""

    name, width, space, fingerprint = "listening", 4, "none", "listening"

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        self.given += names
        return torch.eye(4)[torch.arange(len(names)) % 4]


def test_the_text_encoder_is_given_the_data_sets_identifiers() -> None:
    """VOC's spelling of its own categories, COCO's of the others without their spaces; words elsewhere."""
    names = ["dining table", "potted plant", "tv monitor", "airplane", "motorcycle", "couch", "tv", "cat", "wine glass"]
    given = ["diningtable", "pottedplant", "tvmonitor", "aeroplane", "motorbike", "sofa", "cat", "wineglass"]
    raw = TextEmbeddingCache(encoder=Listening(), templates=["{}"], names="identifiers")
    tokens = raw.tokens(names)
    assert raw.encoder.given == given
    assert torch.equal(tokens[2], tokens[6]), "tv and tv monitor are one identifier"
    plain = TextEmbeddingCache(encoder=Listening(), templates=["{}"])
    plain.add(names)
    assert plain.encoder.given == names


def test_a_run_of_the_recipe_asks_by_identifiers(tmp_path: Path) -> None:
    leaves = {"preset": "bmvc2022", "dataset": "pascal", "features": tmp_path, "templates": "none"}
    asked = {name: RunContext(RunConfig.flat(**leaves, names=name)).text_cache for name in ("words", "identifiers")}
    one, other = (cache.tokens(["dining table", "cat"]) for cache in asked.values())
    spelled = load_text("packaged")(["diningtable"], ["{}"])[0]
    assert torch.allclose(other[0], spelled, atol=1e-5) and not torch.allclose(one[0], spelled, atol=1e-2)
    assert torch.allclose(one[1], other[1], atol=1e-5)
    assert len(list(tmp_path.glob("words-*"))) == 2, "each kind is kept in a file of its own"
