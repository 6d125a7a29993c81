"""The stages of a training step, each timed alone: seconds, operations, bytes, and shares of the peak rates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from measuring import fastest, flops, moved, paired, reached
from sides import SIZE, Ours, Plain
from torch import Tensor

from fusionerlib.models.decoder import resize
from fusionerlib.models.fast_decoder import cosine_logits
from fusionerlib.training.steps import AUTOCAST


@dataclass(frozen=True)
class Stage:
    """``forward`` processes ``images`` images; a backward pass from its result is timed too unless ``frozen``."""

    forward: Callable[[], Any]
    images: int
    frozen: bool = False


def stages(plain: Plain, ours: Ours) -> dict[str, Stage]:
    """Text encoder, visual encoder, fusion with projections, decoder with head, of both sides."""
    batch, count = ours.stored(), len(ours.scenes)
    theirs: Any = plain.model
    model: Any = ours.model
    tokens = rearrange(batch.tokens, "b h w d -> b (h w) d").to(model.device)
    words = ours.text_cache.padded([sample.names for sample in batch.samples])[0].to(model.device)
    grid, name = (batch.tokens.shape[1], batch.tokens.shape[2]), ours.scenes[0].names[0]
    images = torch.stack([rearrange(torch.from_numpy(ours.scenes[i].image), "h w c -> c h w") for i in range(count)])
    with torch.no_grad():
        patches, said = (side.clone() for side in model.mix(*model.project(tokens, words), names_mask=None))
    patches.requires_grad_(), said.requires_grad_()

    half = AUTOCAST.get(ours.run.training.mixed_precision)
    cast = torch.autocast(model.device.type, half, enabled=half is not None)

    @cast
    def fused() -> Tensor:
        return torch.cat(model.mix(*model.project(tokens, words), names_mask=None), dim=1)

    @cast
    def decoded() -> Tensor:
        features = model.decoder(patches @ model.patch_matrix, grid=grid)
        return cosine_logits(features, said @ model.word_matrix, temperature=0.07, size=(SIZE, SIZE))

    def plain_fused() -> Tensor:
        both = theirs.visual_projection(tokens[0]), theirs.text_projection(words[0]) + theirs.category
        return theirs.transformer(torch.cat(both))

    def plain_decoded() -> Tensor:
        row = rearrange(patches[:1] @ theirs.patch_matrix, "b (h w) c -> b c h w", h=grid[0])
        unit = F.normalize(resize(theirs.decoder(row), (SIZE, SIZE)), dim=1)
        return torch.einsum("bkc,bchw->bkhw", F.normalize(said[:1] @ theirs.word_matrix, dim=-1), unit) / 0.07

    return {
        "reference text": Stage(lambda: plain.towers.word(name), 1, frozen=True),
        "reference tower": Stage(lambda: plain.towers.image(images[0]), 1, frozen=True),
        "reference fusion": Stage(plain_fused, 1),
        "reference decoder": Stage(plain_decoded, 1),
        "our text, once a name": Stage(
            lambda: ours.text_cache.encoder([name], ours.text_cache.templates), 1, frozen=True
        ),
        "our tower": Stage(lambda: ours.visual(images), count, frozen=True),
        "our fusion": Stage(fused, count),
        "our decoder": Stage(decoded, count),
        "our optimiser": Stage(ours.step.optimiser.step, count, frozen=True),
    }


def measured(
    stages: Mapping[str, Stage], peaks: Mapping[str, Mapping[str, float]], *, turns: int, device: str
) -> dict[str, Any]:
    """Print and return, for an image: seconds, operations, bytes, and shares of the peak rates, forward and backward.

    peaks: peak rates by the first word of a stage's name.
    """
    rows: dict[str, Any] = {}
    for name, stage in stages.items():
        runs = {"forward": stage.forward} | ({} if stage.frozen else {"both": _both(stage.forward)})
        seconds = fastest(paired(runs, turns, device=device))
        operations, traffic = ({key: count(run) for key, run in runs.items()} for count in (flops, moved))
        rows[name] = {}
        for way in ("forward", "backward")[: len(runs)]:
            s, f, b = (
                (count["forward"] if way == "forward" else count["both"] - count["forward"]) / stage.images
                for count in (seconds, operations, traffic)
            )
            share = reached(seconds=s, flops=int(f), moved=int(b), ceilings=peaks[name.split()[0]])
            rows[name][way] = {"seconds": s, "gigaflops": f / 1e9, "gigabytes": b / 1e9, "reached": share}
            print(
                f"{name:24}{way:10}{s * 1e3:9.1f} ms{f / 1e9:9.1f} GFLOP{share['of_matmul']:7.0%} of matmul"
                f"{share['of_convolution']:7.0%} of convolution{share['of_copy']:7.0%} of copy",
                flush=True,
            )
    return rows


def _both(forward: Callable[[], Tensor]) -> Callable[[], None]:
    slope = torch.ones_like(forward())
    return lambda: forward().backward(slope)
