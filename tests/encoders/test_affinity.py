"""A second encoder's affinities: ProxyCLIP written a second time, patch by patch, and the segmenter made of it."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from safetensors.torch import save_file
from skimage.data import chelsea
from typer.testing import CliRunner

from fusionerlib import Segmenter
from fusionerlib.cli.app import app
from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.encoders import registry, timm_models
from fusionerlib.encoders.affinity import BETA, GAMMA, Affinity, AffinityEncoder
from fusionerlib.encoders.base import EncoderSpec, WeightFile
from fusionerlib.encoders.registry import get_spec, load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.features.alignment import check_tokens
from fusionerlib.features.text import text_cache_of, visual_of
from fusionerlib.inference.training_free import training_free_run
from fusionerlib.models import build
from tests.encoders.open_clip_models import TINY_RESNET, TINY_SIGLIP, TINY_VIT, load, photos, pixels, publish, spec
from tests.encoders.open_clip_models import random_model as random_clip
from tests.encoders.vision_models import load as load_timm
from tests.encoders.vision_models import small

PATCH8 = {"depth": 2, "embed_dim": 24, "num_heads": 2}


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> tuple[EncoderSpec, Path]:
    """The spec of a tiny DINO with patches of 8 pixels, and its file."""
    torch.manual_seed(3)
    row, file = small("dino-vitb8", **PATCH8), tmp_path_factory.mktemp("dino") / "dino.safetensors"
    save_file({name: 0.2 * torch.randn(like.shape) for name, like in timm_models.build(row).state_dict().items()}, file)
    return row, file


@pytest.fixture
def tiny_pair(folder, dino) -> Iterator[dict[str, str]]:
    """The tiny CLIP's halves and the tiny DINO as registered encoders: the leaves of a pair of them."""
    row, file = dino
    options = {"config": TINY_VIT, "quick_gelu": True}
    visual = spec("visual", tokens=("last", "value", "self-self", "clear"), **options)
    added = [
        visual.model_copy(update={"name": "tiny", "multiple": 16, "stride": 16}),
        spec("text", tokens=("pooled",), **options).model_copy(update={"name": "tiny"}),
        row.model_copy(update={"name": "tiny-dino", "files": (WeightFile(file=file.name),)}),
    ]
    for one in added:
        registry.add_encoder(one)
    yield {"visual_weights": str(folder), "text_weights": str(folder), "affinity_weights": str(file)}
    for one in added:
        del registry._specs()[one.role, one.name]


@torch.no_grad()
def by_hand(clip: Any, lent: np.ndarray, grid: tuple[int, int], image: torch.Tensor) -> np.ndarray:
    """ProxyCLIP of one image, a patch at a time; what comes before the last block is open_clip's."""
    rows, columns = image.shape[1] // 16, image.shape[2] // 16
    state = {"visual.positional_embedding": clip.positional_embedding}
    clip = copy.deepcopy(clip)
    clip.grid_size = (rows, columns)
    resize_pos_embed(state, SimpleNamespace(visual=clip))
    clip.positional_embedding = torch.nn.Parameter(state["visual.positional_embedding"])
    x = clip._embeds(pixels(image[None]))
    *blocks, block = clip.transformer.resblocks
    for one in blocks:
        x = one(x)
    width = x.shape[-1]
    values = block.ln_1(x)[0, 1:] @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
    values = F.interpolate(values.T.reshape(1, width, rows, columns), size=grid, mode="bilinear")[0]
    values = values.reshape(width, -1).T.double().numpy()
    unit = lent / np.linalg.norm(lent, axis=1, keepdims=True)
    cosines = unit @ unit.T
    averaged = np.zeros_like(values)
    for patch, row in enumerate(cosines):
        scores = GAMMA * (row - BETA * cosines.mean())
        like = [other for other in range(len(row)) if scores[other] >= 0 or other == patch]
        weights = np.exp(scores[like])
        averaged[patch] = (weights[:, None] * values[like]).sum(0) / weights.sum()
    out = block.attn.out_proj(torch.from_numpy(averaged).float())
    found = (clip.ln_post(out) @ clip.proj).numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_proxy_clip_written_twice(tiny, folder, dino, size) -> None:
    lender, images = load_timm(*dino), photos(*size)
    both = AffinityEncoder(load(folder, TINY_VIT), lender)
    found = both(images)
    assert (both.width, both.multiple, both.stride) == (24 + 48, 16, 8)
    assert found.main.grid == (size[0] // 8, size[1] // 8) and found.main.space == "mine"
    assert found.main.tokens.shape == (2, size[0] * size[1] // 64, both.width)
    lent = lender(images).main
    torch.testing.assert_close(found.main.tokens[..., :24], lent.tokens)
    for image, tokens, own in zip(images, found.main.tokens[..., 24:], lent.tokens, strict=True):
        expected = by_hand(tiny.visual, own.double().numpy(), lent.grid, image)
        np.testing.assert_allclose(tokens.numpy(), expected, atol=2e-4)
    assert float((found.main.tokens[:, :1, 24:] - found.main.tokens[..., 24:]).abs().max()) > 0.05


def test_where_all_patches_are_alike_each_keeps_itself() -> None:
    tokens = torch.ones(1, 6, 4) + 1e-4 * torch.randn(1, 6, 4)
    weights = Affinity.of(tokens, (2, 3)).weights
    torch.testing.assert_close(weights[0], torch.eye(6))
    some = Affinity.of(torch.eye(6)[None], (2, 3)).weights
    assert torch.isfinite(some).all() and torch.allclose(some.sum(-1), torch.ones(1, 6))


@pytest.mark.parametrize("config", [TINY_RESNET, TINY_SIGLIP])
def test_other_families_average_their_last_values(config, dino, tmp_path) -> None:
    kind = "value" if config is TINY_SIGLIP else "last"
    folder = publish(random_clip(config).state_dict(), tmp_path)
    plain, images = load(folder, config, tokens=kind), photos(64, 64)
    # An affinity of each patch to itself alone changes nothing but the grid.
    alone = plain(images, affinity=lambda values: values).main
    torch.testing.assert_close(alone.tokens, plain(images).main.tokens)
    found = AffinityEncoder(plain, load_timm(*dino))(images).main
    assert found.grid == (8, 8) and torch.isfinite(found.tokens).all()
    # Averages of all patches with equal weights are one token for the whole image.
    whole = plain(images, affinity=lambda values: values.mean((2, 3), keepdim=True).expand_as(values)).main.tokens
    assert float((whole - whole[:, :1]).abs().max()) < 1e-5 < float((whole - alone.tokens).abs().max())


def test_what_has_no_values_to_average_is_told(folder, dino) -> None:
    lender = load_timm(*dino)
    for kind in ("value", "self-self", "clear"):
        with pytest.raises(FusionerError, match=f"tokens '{kind}'.*visual_tokens = ''"):
            AffinityEncoder(load(folder, TINY_VIT, tokens=kind), lender)
    with pytest.raises(FusionerError, match="'dino-vitb8' has no values to average: choose a CLIP"):
        AffinityEncoder(lender, lender)
    with pytest.raises(FusionerError, match="'packaged' has no values"):
        AffinityEncoder(load_visual("packaged"), lender)


def test_a_segmenter_without_training(tiny_pair, tmp_path) -> None:
    photo = chelsea()[:200, :300]
    settings = {**tiny_pair, "templates": "few", "size": 64, "offset": 0.1}
    segmenter = Segmenter.training_free("tiny", affinity="tiny-dino", **settings)
    names = ("cat", "wall")
    found = segmenter.set_image(photo).segment(names, threshold=0.3)
    tokens, words = segmenter.tokens.main, segmenter.text_tokens(names)
    cosines = (tokens.tokens[0, :, -48:] @ words.T).T.reshape(2, *tokens.grid)
    torch.testing.assert_close(found.coarse, (cosines - 0.1) / 0.07, atol=1e-4, rtol=1e-4)
    assert tokens.grid == (8, 8) and segmenter.edges == "guided" and found.guide is not None
    windows = Segmenter.training_free("tiny", affinity="tiny-dino", **settings, sliding=True)
    assert windows.set_image(photo).segment(names).coarse.shape == (2, 200, 300)
    # Without the second encoder the last block is repaired.
    plain = Segmenter.training_free("tiny", **{**settings, "affinity_weights": ""})
    assert plain.run.pair.visual_tokens == "clear" and plain.set_image(photo).tokens.main.grid == (4, 4)
    # As a checkpoint without a weight; its run keeps no path of this machine.
    kept = segmenter.save_pretrained(tmp_path / "free")
    assert "tiny-dino" in (kept / "README.md").read_text()
    with pytest.raises(FusionerError, match=r"'tiny' needs open_clip_model\.safetensors"):
        Segmenter.load(kept)


def test_cost_aggregation_is_guided_by_the_second_encoder(tiny_pair) -> None:
    leaves = {"visual": "tiny", "text": "tiny", "affinity": "tiny-dino", "similarity": "cosine", **tiny_pair}
    run = RunConfig.flat(preset="modern", templates="none", size=64, **leaves)
    check_tokens(run)
    visual, words = visual_of(run.pair), text_cache_of(run.pair).tokens(["cat", "dog"])
    model = build(run.fusion, visual_width=visual.width, text_width=48)
    assert model.guidance[0].in_channels == 24
    main = visual(photos(64, 64)).main
    logits = model(main.tokens, words.expand(2, -1, -1), grid=main.grid, size=(64, 64))
    assert logits.shape == (2, 2, 64, 64) and torch.isfinite(logits).all()
    logits.sum().backward()
    with pytest.raises(FusionerError, match=r"similarity 'cosine' takes the cosine .* two spaces"):
        check_tokens(run.changed(visual="dino-vitb16", affinity=""))


def test_the_run_without_training_suits_the_pair() -> None:
    def free(visual: str, *, text: str = "", **leaves: str) -> RunConfig:
        return training_free_run(PairConfig(visual=visual, text=text, templates="", **leaves))

    sizes = {
        ("clip-vit-b16", "dino-vitb8"): 320,
        ("clip-vit-b16", "dinov2-vits14"): 448,
        ("clip-vit-b16", ""): 320,
        ("clip-vit-l14", ""): 448,
    }
    for (visual, affinity), size in sizes.items():
        run = free(visual, affinity=affinity)
        assert run.data.size == size and run.data.size % get_spec("visual", visual).multiple == 0
        assert run.pair.visual_tokens == ("" if affinity else "clear") and run.pair.templates == "openai"
    assert free("siglip-b16", affinity="dino-vitb8").pair.visual_tokens == "value"
    assert free("clip-rn50").pair.visual_tokens == ""
    for tokens, both in (("", ("conse", "mean")), ("class_posteriors", ("class_posteriors",) * 2)):
        pair = free("packaged", visual_tokens=tokens).pair
        assert (pair.visual_tokens, pair.text_tokens) == both
    with pytest.raises(FusionerError, match=r"'dino-vitb8' and 'bert-base' .* two spaces"):
        free("dino-vitb8", text="bert-base")
    with pytest.raises(FusionerError, match="dino-vitb88"):
        free("clip-vit-b16", affinity="dino-vitb88")


def test_the_packaged_pair_without_training_from_the_command_line(tmp_path) -> None:
    runner, kept = CliRunner(), tmp_path / "free"
    made = runner.invoke(app, ["training-free", "packaged", "--affinity", "packaged", "-o", str(kept)])
    assert made.exit_code == 0, made.output
    pair = PairConfig(affinity="packaged", visual_tokens="conse", text_tokens="mean", synonyms="everyday")
    again = Segmenter.load(kept)
    assert again.run is not None and again.run.pair == pair and again.model.trainable()["total"] == 0
    labels = again.set_image(chelsea()).segment(["cat", "car"], background=False).labels
    assert (labels == 1).mean() > 0.9
    assert "nothing was trained" in (kept / "README.md").read_text()
