"""Training of the fusion on frozen features. Every step follows from (seed, step), so a resumed run is the same run."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fusionerlib.config import PLACES, RunConfig
from fusionerlib.datasets.sampling import NameSampler, SampleOrder
from fusionerlib.errors import FusionerError
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel, build
from fusionerlib.training.batch_sources import BatchSource, StoredBatchSource
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.progress import TrainingProgress
from fusionerlib.training.resume import History, TrainingState
from fusionerlib.training.steps import Stepper, in_steps

HOW = {"workers", "accumulate", "channels_last", "compile_fusion", "tensorboard"}
"""How a training is worked out, not what comes out (up to rounding): a stopped one may go on with others.

The same holds for ``PLACES``, the folders of data and features."""


def train(
    *,
    run: RunConfig,
    scenes: StoredScenes | BatchSource,
    text_cache: TextEmbeddingCache,
    directory: Path,
    pairs: Sequence[tuple[int, str]] | None = None,
    validate: Callable[[SegmentationModel], dict[str, float]] | None = None,
    quiet: bool = False,
    device: str = "cpu",
) -> tuple[SegmentationModel, History]:
    """A trained model (in eval mode) and its history: rows of step, loss, lr, and now and then validation figures.

    scenes: the feed that ``run.training.feed`` says; stored scenes are one. pairs: what is sampled; the feed's own
    (scene, name) pairs if None. directory: where running checkpoints are kept (the last one only); if it holds one of
    this very run, training goes on from there, to the same weights.

    Called in every process of a launch by accelerate, each takes an equal share of every batch on its own device, and
    the losses are those of one process up to rounding. Only the main process validates and writes; ``directory`` must
    be the same place for all. device: of an ordinary start.
    Raises FusionerError where ``directory`` holds a checkpoint of another config or of other data, for a feed of the
    other kind, and for a batch that can't be shared equally.
    """
    team = Distributed.joined(device)
    feed = StoredBatchSource(scenes) if isinstance(scenes, StoredScenes) else scenes
    if feed.kind != run.training.feed:
        raise FusionerError(
            f"the run says feed = {run.training.feed!r} but is given a {feed.kind} one: set feed to {feed.kind!r}, or "
            "make the feed by feeds.training_batch_source"
        )
    pairs = feed.pairs() if pairs is None else list(pairs)
    if not pairs:
        raise FusionerError(
            "there is nothing to train on: the data set has no (scene, name) pair; check its root and fold"
        )
    run = in_steps(run, pairs=len(pairs))
    config = run.training
    vocabulary = sorted({name for _, name in pairs})
    text_cache.add(vocabulary)
    torch.manual_seed(config.seed)
    model = build(run.fusion, visual_width=feed.width, text_width=text_cache.encoder.width).to(team.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    stepper = Stepper(model, run=run, text_cache=text_cache, team=team)
    described = run.model_dump(mode="json", exclude={"training": HOW, "data": set(PLACES)})
    identity = {"run": described, "scenes": feed.fingerprint, "words": text_cache.encoder.fingerprint}
    now = TrainingState(model, stepper.optimiser, stepper.scaler)
    now.resume(directory, identity)
    if len(set(team.gathered(torch.tensor([now.step], device=team.device)).tolist())) > 1:
        raise FusionerError(f"the processes do not see the same {directory}: put it where all machines can read it")
    order = SampleOrder(
        pairs,
        [feed.names(index) for index in range(len(feed))],
        sampler=NameSampler(
            vocabulary, positives=config.positives, negatives=config.negatives, hard=config.hard_negatives
        ),
        batch=config.batch,
        seed=config.seed,
        balanced=config.balanced,
        whole_epochs=config.epochs > 0,
        rows=team.rows,
    )
    watch = TrainingProgress(
        total=config.steps,
        done=now.step,
        batch=config.batch,
        quiet=quiet or not team.main,
        tensorboard=directory / "tensorboard" if config.tensorboard and team.main else None,
    )
    model.train()
    with watch, closing(feed.batches(order, range(now.step, config.steps))) as batches:
        for batch in batches:
            whole = batch.samples if team.count == 1 else order.samples(now.step)
            loss, lr = stepper(batch, now.step, whole=whole)
            now.step += 1
            row: dict[str, Any] = {"step": now.step, "loss": loss, "lr": lr}
            if not math.isfinite(loss):
                raise FusionerError(f"the loss is {loss} at step {now.step}: lower lr (now {config.lr}) and run again")
            last = now.step == config.steps
            if validate is not None and team.main and (now.step % config.validate_every == 0 or last):
                row |= validate(model.eval())
                model.train()
            now.history.append(row)
            if team.main and (now.step % config.checkpoint_every == 0 or last):
                now.keep(directory, identity)
            watch.step(row)
    team.wait()
    return model.eval(), now.history
