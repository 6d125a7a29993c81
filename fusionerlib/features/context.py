"""What a run needs and training does not change: frozen encoders, text embeddings, scenes, and stored features."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import PLACES, PairConfig, RunConfig
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.sets import DataSets, load_datasets
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.features.alignment import check_tokens
from fusionerlib.features.store import FeatureStore, StoredScenes
from fusionerlib.features.text import TextEmbeddingCache, in_precision_of, text_cache_of, visual_of

VISUAL_SIDE = ("visual", "visual_weights", "visual_tokens", "affinity", "affinity_weights")
TEXT_SIDE = ("text", "text_weights", "text_tokens", "templates", "synonyms")
Part = TypeVar("Part")


@dataclass(frozen=True)
class RunContext:
    """The frozen parts of a run, each of which is loaded when it is first used.

    device: where the encoders run; a precision "auto" of ``run`` becomes the one that suits it. A context
    made by ``with_run`` shares the parts that both runs need alike.
    Raises FusionerError at once if the tokens of the run's pair do not suit its model.
    """

    run: RunConfig
    device: str = "cpu"
    _loaded: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Only here both the run and its device are known.
        object.__setattr__(self, "run", in_precision_of(self.run, self.device))
        check_tokens(self.run)

    @classmethod
    def of_checkpoint(
        cls, directory: Path | str, *, device: str = "cpu", base: Path | str = ""
    ) -> tuple["RunContext", Checkpoint]:
        """The context that the checkpoint in ``directory`` was trained in, and the checkpoint on ``device``.

        base: the folder that relative paths of the run's data and features count from, "" for the working directory.
        """
        checkpoint = checkpoints.load(directory)
        checkpoint.model.to(device)
        data = checkpoint.run.data
        places = {place: Path(base) / where for place in PLACES if (where := getattr(data, place)) is not None}
        run = checkpoint.run.model_copy(update={"data": data.model_copy(update=places)})
        return cls(run, device=device), checkpoint

    def with_run(self, run: RunConfig) -> "RunContext":
        """The context of another run. An encoder, data set or feature that both runs use is loaded once."""
        return replace(self, run=run)

    @property
    def visual(self) -> VisualEncoder:
        """The frozen visual encoder."""
        return self._once(("visual", self._visual_side), lambda: visual_of(self.run.pair, device=self.device))

    @property
    def text_cache(self) -> TextEmbeddingCache:
        """The text embeddings of the run's text encoder, templates, synonyms and spelling of names."""
        pair, names, folder = self.run.pair, self.run.data.names, self.run.data.features
        key = ("text", pair.model_copy(update=dict.fromkeys(VISUAL_SIDE, "")), names, folder)
        return self._once(key, lambda: text_cache_of(pair, names=names, folder=folder, device=self.device))

    @property
    def sets(self) -> DataSets:
        """The training and test scenes; OpenMoji's are drawn first if they are missing."""
        return self._once(("sets", self.run.data), lambda: load_datasets(self.run.data))

    @property
    def store(self) -> FeatureStore:
        """The features on disk."""
        data = self.run.data
        return self._once(
            ("store", *self._features),
            lambda: FeatureStore(data.features, encoder=self.visual, number_format=data.store),
        )

    def features(self, scenes: Scenes, description: str = "features", *, quiet: bool = False) -> StoredScenes:
        """``scenes`` with their frozen features, which are computed where they are missing."""
        key = ("features", *self._features, scenes.fingerprint)
        return self._once(key, lambda: self.store.add(scenes, description=description, quiet=quiet))

    @property
    def _visual_side(self) -> PairConfig:
        return self.run.pair.model_copy(update=dict.fromkeys(TEXT_SIDE, ""))

    @property
    def _features(self) -> tuple[Any, ...]:
        """What decides stored features, beside the scenes."""
        return self._visual_side, self.run.data.features, self.run.data.store

    def _once(self, key: Any, load: Callable[[], Part]) -> Part:
        if key not in self._loaded:
            self._loaded[key] = load()
        found: Part = self._loaded[key]
        return found
