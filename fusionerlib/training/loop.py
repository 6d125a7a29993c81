"""The training loop. A step is a function of (seed, step), so an interrupted training goes on to bit-equal weights."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fusionerlib.config import PLACES, RunConfig
from fusionerlib.datasets.sampling import NameSampler, SampleOrder
from fusionerlib.errors import FusionerError
from fusionerlib.features.text import TextEmbeddingCache, in_precision_of
from fusionerlib.files import exclusive
from fusionerlib.models import SegmentationModel, build
from fusionerlib.training.batch_sources import BatchSource, names_of
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.examples import collect
from fusionerlib.training.optimisers import learning_rate
from fusionerlib.training.progress import TrainingProgress
from fusionerlib.training.rehearsal import Rehearsal, old_names
from fusionerlib.training.replay import stopped
from fusionerlib.training.resume import LOCK, History, TrainingState
from fusionerlib.training.start import starting_point
from fusionerlib.training.steps import NonFiniteError, Stepper, in_steps

Validate = Callable[[SegmentationModel], dict[str, float]]
"""Figures of a model (in eval mode) by name, such as {"miou": 0.5}."""

EXECUTION = {"workers", "accumulate", "channels_last", "compile_fusion", "tensorboard"}
"""Leaves of ``TrainingConfig`` that change speed and memory, and weights only by rounding."""


def identity_of(run: RunConfig, source: BatchSource, text_cache: TextEmbeddingCache) -> dict[str, Any]:
    """What decides the weights of a training, as JSON. Where files lie (``config.PLACES``) is not part of it."""
    leaves = run.model_dump(mode="json", exclude={"training": EXECUTION, "data": set(PLACES)})
    start = starting_point(run)
    parents = {"parents": [parent.sha256 for parent in start.parents]} if start else {}
    return {"run": leaves, "scenes": source.fingerprint, "words": text_cache.encoder.fingerprint, **parents}


def train(
    *,
    run: RunConfig,
    source: BatchSource,
    text_cache: TextEmbeddingCache,
    directory: Path,
    validate: Validate | None = None,
    quiet: bool = False,
    device: str = "cpu",
) -> tuple[SegmentationModel, History]:
    """Train the model of ``run``; returns it in eval mode, and a row for each step: step, loss, lr, validation figures.

    source: batches, of the kind that ``run.training.feed`` names. directory: folder of the running checkpoint; one of
    the same run there is resumed, to bit-equal weights. validate: called every ``validate_every`` steps and at the end.
    quiet: show no progress.

    In a launch by accelerate every process calls this and takes an equal share of each batch on its own device; the
    losses equal those of one process up to rounding. Only the main process validates and writes, and all processes must
    see the same ``directory``. device: of a single process.
    Raises FusionerError if ``directory`` holds a checkpoint of another config or other data, if ``source`` is of the
    other kind or has no pair, if the checkpoint ``init`` has another pair or model (``starting_point``), if a batch
    can't be shared equally, if another process trains in ``directory``, and if features, loss or gradient are not
    finite; the message then says which, and names the file that ``replay`` does that step again from.
    """
    distributed = Distributed.joined(device)
    if not distributed.main:
        return _train(run, source, text_cache, directory, validate, quiet=True, distributed=distributed)
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive(directory / LOCK, f"training in {directory}"):
        return _train(run, source, text_cache, directory, validate, quiet=quiet, distributed=distributed)


def _train(
    run: RunConfig,
    source: BatchSource,
    text_cache: TextEmbeddingCache,
    directory: Path,
    validate: Validate | None,
    *,
    quiet: bool,
    distributed: Distributed,
) -> tuple[SegmentationModel, History]:
    """``train`` as one of the processes ``distributed``."""
    if source.kind != run.training.feed:
        raise FusionerError(
            f"the run says feed = {run.training.feed!r} but its batch source is {source.kind}: set feed to "
            f"{source.kind!r}, or make the source by batch_sources.training_batch_source"
        )
    pairs = source.pairs()
    if not pairs:
        raise FusionerError(
            "there is nothing to train on: no (scene, name) pair; check the data set's root and fold, or take a larger "
            "share of its images or names"
        )
    run = in_steps(in_precision_of(run, str(distributed.device)), pairs=len(pairs))
    config = run.training
    if config.warmup >= config.steps and not quiet:
        most = learning_rate(config, config.steps - 1)
        print(
            f"the warm-up of {config.warmup} steps is not shorter than the training of {config.steps}: the learning "
            f"rate ends at {most:.2g} instead of rising to {config.lr:g}; set a smaller warmup",
            file=sys.stderr,
        )
    vocabulary = names_of(pairs)
    text_cache.add(vocabulary)
    start = starting_point(run)
    torch.manual_seed(config.seed)
    model = build(run.fusion, visual_width=source.width, text_width=text_cache.encoder.width).to(distributed.device)
    if start is not None:
        start.load_into(model)
    examples = None
    if model.examples is not None:
        examples = collect(source, model.examples, fit=start is None, quiet=quiet or not distributed.main)
        model.to(distributed.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    rehearsal = None
    if start is not None and config.rehearsal and old_names(start, vocabulary):
        rehearsal = Rehearsal(
            start,
            vocabulary=vocabulary,
            text_cache=text_cache,
            weight=config.rehearsal,
            seed=config.seed,
            device=distributed.device,
        )
    stepper = Stepper(
        model, run=run, text_cache=text_cache, distributed=distributed, rehearsal=rehearsal, examples=examples
    )
    identity = identity_of(run, source, text_cache)
    state = TrainingState(model, stepper.optimiser, stepper.scaler)
    state.resume(directory, identity, quiet=not distributed.main)
    if len(set(distributed.gather(torch.tensor([state.step], device=distributed.device)).tolist())) > 1:
        raise FusionerError(f"the processes do not see the same {directory}: put it where all machines can read it")
    order = SampleOrder(
        pairs,
        [source.names(index) for index in range(len(source))],
        sampler=NameSampler(
            vocabulary, positives=config.positives, negatives=config.negatives, hard=config.hard_negatives
        ),
        batch=config.batch,
        seed=config.seed,
        balanced=config.balanced,
        whole_epochs=config.epochs > 0,
        rows=distributed.rows,
        labelled=source.labelled,
    )
    progress = TrainingProgress(
        total=config.steps,
        done=state.step,
        batch=config.batch,
        quiet=quiet,
        tensorboard=directory / "tensorboard" if config.tensorboard and distributed.main else None,
    )
    model.train()
    with progress, closing(source.batches(order, range(state.step, config.steps))) as batches:
        for batch in batches:
            whole = batch.samples if distributed.count == 1 else order.samples(state.step)
            try:
                loss, lr = stepper(batch, state.step, whole=whole)
            except NonFiniteError as error:
                raise stopped(
                    error,
                    run=run,
                    source=source,
                    model=model,
                    step=state.step + 1,
                    directory=directory,
                    kept=state.kept,
                    process=distributed.index,
                ) from error
            state.step += 1
            row: dict[str, Any] = {"step": state.step, "loss": loss, "lr": lr}
            last = state.step == config.steps
            if validate is not None and distributed.main and (state.step % config.validate_every == 0 or last):
                row |= validate(model.eval())
                model.train()
            state.history.append(row)
            if distributed.main and (state.step % config.checkpoint_every == 0 or last):
                state.save(directory, identity)
            progress.step(row)
    distributed.wait()
    return model.eval(), state.history
