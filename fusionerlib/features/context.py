"""The frozen half of a run: encoders, text embeddings, scenes, and the store of their features."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import PLACES, RunConfig
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.sets import DataSets, load_datasets
from fusionerlib.encoders.base import VisualEncoder
from fusionerlib.features.alignment import check_tokens
from fusionerlib.features.store import FeatureStore, StoredScenes
from fusionerlib.features.text import TextEmbeddingCache, text_cache_of, visual_of


@dataclass(frozen=True)
class RunContext:
    """Everything of a run that training does not change: encoders, text embeddings, scenes, stored features.

    Parts are loaded when they are first used. Raises FusionerError at once where the tokens of the run's pair do not
    suit its model.
    """

    run: RunConfig
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_tokens(self.run)

    @classmethod
    def of_checkpoint(
        cls, directory: Path | str, *, device: str = "cpu", base: Path | str = ""
    ) -> tuple["RunContext", Checkpoint]:
        """The context that the checkpoint in ``directory`` was trained in, and the checkpoint, on ``device``.

        base: the folder that relative paths of the run's data and features count from, "" for the working directory.
        """
        checkpoint = checkpoints.load(directory)
        checkpoint.model.to(device)
        data = checkpoint.run.data
        places = {place: Path(base) / getattr(data, place) for place in PLACES}
        run = checkpoint.run.model_copy(update={"data": data.model_copy(update=places)})
        return cls(run, device=device), checkpoint

    @cached_property
    def visual(self) -> VisualEncoder:
        """The frozen visual encoder of the pair."""
        return visual_of(self.run.pair, device=self.device)

    @cached_property
    def text_cache(self) -> TextEmbeddingCache:
        """The text tokens of the pair, with its templates, synonyms and spelling of names."""
        data = self.run.data
        return text_cache_of(self.run.pair, names=data.names, folder=data.features, device=self.device)

    @cached_property
    def sets(self) -> DataSets:
        """The scenes that train and test; those of OpenMoji are drawn first if they are missing."""
        return load_datasets(self.run.data)

    @cached_property
    def store(self) -> FeatureStore:
        """The stored features of the visual encoder."""
        return FeatureStore(self.run.data.features, encoder=self.visual, number_format=self.run.data.store)

    def features(self, scenes: Scenes, description: str = "features") -> StoredScenes:
        """The stored features of ``scenes``, computed where they are missing."""
        return self.store.add(scenes, description=description)
