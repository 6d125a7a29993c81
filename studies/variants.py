"""Variants of a run, trained on stored features and compared by the studies ``ablations`` and ``methods``."""

from pathlib import Path

from fusionerlib.features.context import RunContext
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.files import fingerprint
from fusionerlib.runs import TrainedRun, train_run
from fusionerlib.training.batch_sources import StoredBatchSource, training_batch_source
from fusionerlib.training.loop import identity_of


def stored_source(context: RunContext) -> StoredBatchSource:
    """The run's training scenes as stored features; ``context.run`` must have feed "stored"."""
    source = training_batch_source(context)
    assert isinstance(source, StoredBatchSource)
    return source


def train_variant(
    context: RunContext,
    *,
    directory: Path,
    source: StoredBatchSource | None = None,
    text_cache: TextEmbeddingCache | None = None,
) -> TrainedRun:
    """``train_run`` with its running checkpoint in a subfolder of ``directory``, named by what decides the training.

    The checkpoint stays, so that an interrupted comparison goes on and a repeated one trains nothing again. source,
    text_cache: the run's own if None.
    """
    source = stored_source(context) if source is None else source
    text_cache = context.text_cache if text_cache is None else text_cache
    identity = identity_of(context.run, source, text_cache), type(text_cache).__name__
    folder = directory / fingerprint(*identity)[:16]
    return train_run(context, directory=folder, source=source, text_cache=text_cache)
