"""Where small trainings are compared: encoders, stored features and words are opened once for all of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionerlib.config import RunConfig
from fusionerlib.datasets.scene import Scenes
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel, build
from fusionerlib.training.batch_sources import StoredBatchSource
from fusionerlib.training.loop import train

TEXT_SIDE = ("text", "text_weights", "text_tokens", "templates", "synonyms")
SHORT = 300
"""Fewer images than this are stored without a progress bar: a comparison has many small sets."""


@dataclass(frozen=True)
class Trained:
    """A model in eval mode, the words it was trained with, its last loss; None where there was nothing to train."""

    model: SegmentationModel
    text_cache: TextEmbeddingCache
    loss: float | None


class VariantRunner:
    """Trains variations of the run of ``context``; a training that was stopped goes on from ``directory``."""

    def __init__(self, context: RunContext, *, directory: Path) -> None:
        self.context, self.directory = context, directory
        self._opened = {self._seen(context.run): context}
        self._text_caches = {(context.run.pair, context.run.data.names): context}
        self._stored: dict[Any, StoredScenes] = {}

    def text_cache(self, run: RunConfig) -> TextEmbeddingCache:
        """The words of ``run``."""
        key = (run.pair, run.data.names)
        return self._text_caches.setdefault(key, RunContext(run, self.context.device)).text_cache

    def features(self, run: RunConfig, scenes: Scenes, description: str) -> StoredScenes:
        """``scenes`` by the features of the visual encoder of ``run``."""
        key = (self._seen(run), scenes.fingerprint)
        if key not in self._stored:
            store = self._of(run).store
            self._stored[key] = store.add(scenes, description=description, quiet=len(scenes) < SHORT)
        return self._stored[key]

    def scenes(self, run: RunConfig) -> StoredBatchSource:
        """What ``run`` trains on, from stored features whatever its feed."""
        sets = self._of(run).sets
        return StoredBatchSource(self.features(run, sets.train, "training features"), sets.pairs)

    def train(
        self, run: RunConfig, *, feed: StoredBatchSource | None = None, text_cache: TextEmbeddingCache | None = None
    ) -> Trained:
        """``run`` trained on ``feed`` with ``text_cache``, its own if None. A model without parameters is only built.

        Raises FusionerError where the data leaves nothing to train on.
        """
        feed, text_cache = feed or self.scenes(run), text_cache or self.text_cache(run)
        model = build(run.fusion, visual_width=feed.width, text_width=text_cache.encoder.width)
        if not list(model.parameters()):
            print(f"{run.fusion.kind}: nothing to train, it is measured as it is")
            return Trained(model.eval().to(self.context.device), text_cache, None)
        if not feed.pairs():
            raise FusionerError("no (scene, name) pair is left to train on: take a larger share of images or names")
        told = [run.model_dump_json(), feed.fingerprint, text_cache.encoder.fingerprint, type(text_cache).__name__]
        folder = self.directory / hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
        model, history = train(
            run=run, scenes=feed, text_cache=text_cache, directory=folder, device=self.context.device
        )
        return Trained(model, text_cache, history[-1]["loss"])

    def _of(self, run: RunConfig) -> RunContext:
        return self._opened.setdefault(self._seen(run), RunContext(run, self.context.device))

    @staticmethod
    def _seen(run: RunConfig) -> Any:
        """What decides features: the visual side of the pair, and the data."""
        return run.pair.model_copy(update=dict.fromkeys(TEXT_SIDE, "")), run.data
