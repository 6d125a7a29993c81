"""Training of the fusion on frozen features. Every step follows from (seed, step), so a resumed run is the same run."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.features import StoredScenes
from fusionerlib.feeds import Batch, Feed, StoredFeed
from fusionerlib.files import write_text
from fusionerlib.fusion import SegmentationModel, build
from fusionerlib.fusion.losses import segmentation_loss
from fusionerlib.optimiser import make_optimiser, set_schedule
from fusionerlib.sampling import NameSampler, Sample, SampleOrder
from fusionerlib.words import WordTable

History = list[dict[str, Any]]


def train(
    *,
    run: RunConfig,
    scenes: StoredScenes | Feed,
    words: WordTable,
    directory: Path,
    pairs: Sequence[tuple[int, str]] | None = None,
    validate: Callable[[SegmentationModel], dict[str, float]] | None = None,
    quiet: bool = False,
) -> tuple[SegmentationModel, History]:
    """A trained model (in eval mode) and its history: rows of step, loss, lr, and now and then validation figures.

    scenes: the feed that ``run.training.feed`` says; stored scenes are one. pairs: what is sampled; the feed's own
    (scene, name) pairs if None. directory: where running checkpoints are kept (the last one only); if it holds one of
    this very run, training goes on from there, to the same weights.
    Raises FusionerError where it holds one of another config or of other data, and for a feed of the other kind.
    """
    config = run.training
    feed = StoredFeed(scenes) if isinstance(scenes, StoredScenes) else scenes
    if feed.kind != config.feed:
        raise FusionerError(
            f"the run says feed = {config.feed!r} but is given a {feed.kind} one: set feed to {feed.kind!r}, or make "
            "the feed by feeds.training_feed"
        )
    pairs = feed.pairs() if pairs is None else list(pairs)
    if not pairs:
        raise FusionerError(
            "there is nothing to train on: the data set has no (scene, name) pair; check its root and fold"
        )
    vocabulary = sorted({name for _, name in pairs})
    words.add(vocabulary)
    torch.manual_seed(config.seed)
    model = build(run.fusion, visual_width=feed.width, text_width=words.encoder.width)
    optimiser = make_optimiser(model, config)
    # How many workers make the views changes nothing in them.
    described = run.model_dump(mode="json", exclude={"training": {"workers"}})
    identity = {"run": described, "scenes": feed.fingerprint, "words": words.encoder.fingerprint}
    step, history = _resume(directory, model, optimiser, identity)
    order = SampleOrder(
        pairs,
        [feed.names(index) for index in range(len(feed))],
        sampler=NameSampler(
            vocabulary, positives=config.positives, negatives=config.negatives, hard=config.hard_negatives
        ),
        batch=config.batch,
        seed=config.seed,
        balanced=config.balanced,
    )
    bar = tqdm(total=config.steps, initial=step, desc="training", unit="step", disable=quiet, mininterval=5)
    model.train()
    with closing(feed.batches(order, range(step, config.steps))) as batches:
        for batch in batches:
            lr = set_schedule(optimiser, config, step)
            # Dropout and noise of a step depend on the step alone, not on how the run got there.
            torch.manual_seed((config.seed + 1) * 1_000_003 + step)
            loss = training_loss(model, batch, words, run)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            row: dict[str, Any] = {"step": step, "loss": float(loss.detach()), "lr": lr}
            if not math.isfinite(row["loss"]):
                raise FusionerError(
                    f"the loss is {row['loss']} at step {step}: lower lr (now {config.lr}) and run again"
                )
            if validate is not None and (step % config.validate_every == 0 or step == config.steps):
                row |= validate(model.eval())
                model.train()
            history.append(row)
            if step % config.checkpoint_every == 0 or step == config.steps:
                _keep(directory, model, optimiser, identity, step, history)
            bar.set_postfix(
                loss=f"{row['loss']:.3f}",
                images_s=f"{config.batch * (bar.format_dict['rate'] or 0):.0f}",
                refresh=False,
            )
            bar.update()
    bar.close()
    return model.eval(), history


def training_loss(model: SegmentationModel, batch: Batch, words: WordTable, run: RunConfig) -> Float[Tensor, ""]:
    """The loss of one batch, with noise on the text tokens and pixels thinned as ``run.training`` says."""
    config = run.training
    tokens, names_mask = words.padded([sample.names for sample in batch.samples])
    if config.text_noise:
        tokens = tokens + torch.randn_like(tokens) * config.text_noise * tokens.shape[-1] ** -0.5
    labels = batch.labels[:, :: config.loss_stride, :: config.loss_stride]
    device = model.device
    logits = model(
        rearrange(batch.tokens, "b h w d -> b (h w) d").to(device),
        tokens.to(device),
        grid=(batch.tokens.shape[1], batch.tokens.shape[2]),
        size=(labels.shape[-2], labels.shape[-1]),
        names_mask=None if bool(names_mask.all()) else names_mask.to(device),
    )
    return segmentation_loss(
        logits,
        name_masks(labels, batch.names, batch.samples, names_mask.shape[1]).to(device),
        valid=(labels != 255).to(device),
        names_mask=names_mask.to(device),
        kind=config.loss,
    )


def name_masks(
    labels: UInt8[Tensor, "batch height width"],
    names: Sequence[tuple[str, ...]],
    samples: Sequence[Sample],
    count: int,
) -> Bool[Tensor, "batch names height width"]:
    """The mask of every asked name: all False for an absent one and for padding up to ``count`` names.

    names: those behind each scene's labels.
    """
    # Label 254 never occurs (a scene holds at most 253 names besides), so it stands for "not in this scene".
    index = torch.full((len(samples), count), 254, dtype=torch.uint8)
    for row, (labelled, sample) in enumerate(zip(names, samples, strict=True)):
        for column, name in enumerate(sample.names):
            if name in labelled:
                index[row, column] = labelled.index(name) + 1
    return labels[:, None] == index[:, :, None, None]


def _keep(
    directory: Path,
    model: SegmentationModel,
    optimiser: torch.optim.Optimizer,
    identity: dict[str, Any],
    step: int,
    history: History,
) -> None:
    """One running checkpoint under a name of its own; older ones go once it is whole."""
    target, part = directory / f"step-{step:07d}", directory / f"step-{step:07d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, part / "model.safetensors")
    moments = {
        f"{index}.{key}": value
        for index, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }
    save_file(moments, part / "optimiser.safetensors")
    write_text(part / "state.json", json.dumps({"identity": identity, "step": step, "history": history}))
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    for old in directory.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def _resume(
    directory: Path, model: SegmentationModel, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> tuple[int, History]:
    kept = sorted(
        path for path in directory.glob("step-*") if (path / "state.json").is_file() and path.suffix != ".part"
    )
    if not kept:
        return 0, []
    state = json.loads((kept[-1] / "state.json").read_text())
    if state["identity"] != identity:
        raise FusionerError(
            f"{kept[-1]} is a checkpoint of another run ({_difference(state['identity'], identity)}): "
            f"delete {directory} to start afresh, or give this run another folder"
        )
    model.load_state_dict(load_file(kept[-1] / "model.safetensors"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(kept[-1] / "optimiser.safetensors").items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return state["step"], state["history"]


def _difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    return f"{path} was {old!r}, is {new!r}"
