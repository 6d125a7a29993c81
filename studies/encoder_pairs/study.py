"""Pairs of encoders compared as in Table 1 of the paper, at a size for one small machine.

One visual encoder with two text encoders, early and late fusion, trained on photographs without a fold's classes under
any of their names. All runs have the same budget, names and template.
"""

import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from fusionerlib.config import RunConfig
from fusionerlib.datasets.scene import Scenes
from fusionerlib.datasets.transforms import Subset
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.queries import Query, single_queries
from fusionerlib.evaluation.scoring import evaluate
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import StoredScenes
from fusionerlib.runs import TrainedRun
from fusionerlib.training.batch_sources import StoredBatchSource, names_of
from studies.photo_study import PhotoStudy

TEXTS = ("MiniLM", "CLIP")
"""The packaged sentence encoder, and CLIP's text encoder as a table of its embeddings."""

FUSIONS = {"early": "fusioner", "late": "late"}
"""The paper's terms, and ``FusionConfig.kind``."""

TEMPLATE = Path(__file__).with_name("template.txt")
"""The one template of both text encoders, "a {}": that of the published table of embeddings."""


@dataclass(frozen=True)
class Variant:
    """One run: text encoder, early or late fusion, held-out fold, seed."""

    text: str
    fusion: str
    fold: int
    seed: int

    @property
    def stem(self) -> str:
        """The run's name, for files."""
        return f"{self.text.lower()}-{self.fusion}-fold{self.fold}-seed{self.seed}"


@dataclass(frozen=True)
class FoldData:
    """A fold's features, and the published (scene, name) pairs of the classes that are evaluated."""

    train: StoredScenes
    test: StoredScenes
    pairs: list[tuple[int, str]]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The evaluated classes, sorted."""
        return names_of(self.pairs)

    @cached_property
    def together(self) -> list[Query]:
        """Every test photograph of an evaluated class, asked for all of them."""
        return [Query(scene, self.classes) for scene in dict.fromkeys(scene for scene, _ in self.pairs)]


class Study(PhotoStudy):
    """What is compared, on what, and for how long: the parameters of notebook 07. Its folder is ``encoder_pairs``.

    novel: what the pixels of a fold's classes are in training. positives, negatives, text_noise: as in
    ``TrainingConfig``, the same for both texts; the default is the paper's sample, one present and no absent name.
    photos: at most so many training and test photographs, evenly spaced; 0 for all. least: a class is evaluated if so
    many of the fold's published pairs are on disk.
    """

    steps: int = Field(default=150, ge=1)
    batch: int = Field(default=16, ge=1)
    size: int = Field(default=224, ge=32, multiple_of=32)
    novel: Literal["ignore", "background"] = "ignore"
    positives: int = Field(default=1, ge=1)
    negatives: int = Field(default=0, ge=0)
    text_noise: float = Field(default=0.0, ge=0.0)
    photos: int = Field(default=0, ge=0)
    least: int = Field(default=10, ge=1)

    @property
    def folder(self) -> Path:
        """The folder of records and features."""
        return self.directory / "encoder_pairs"

    @property
    def limits(self) -> dict[str, int]:
        """Settings that change results and are not in a run's config."""
        return {"photos": self.photos, "least": self.least}

    def trials(self) -> list[Variant]:
        """Every run, one seed after the other, so that an interrupted study has whole tables."""
        texts = product(self.seeds, self.folds, TEXTS, FUSIONS)
        return [Variant(text=text, fusion=fusion, fold=fold, seed=seed) for seed, fold, text, fusion in texts]

    def run_of(self, trial: Variant) -> RunConfig:
        """The config of one run."""
        return RunConfig.flat(
            preset="small",
            text="packaged" if trial.text == "MiniLM" else f"vectors:{self.vectors}",
            templates=str(TEMPLATE),
            kind=FUSIONS[trial.fusion],
            dataset="photos",
            root=self.voc_root,
            coco=self.coco_root,
            novel=self.novel,
            features=self.folder / "features",
            fold=trial.fold,
            size=self.size,
            steps=self.steps,
            batch=self.batch,
            warmup=min(20, self.steps),
            positives=self.positives,
            negatives=self.negatives,
            text_noise=self.text_noise,
            loss="bce+dice",
            validate_every=self.steps,
            checkpoint_every=self.steps,
            seed=trial.seed,
        )

    def data(self, context: RunContext) -> FoldData:
        """The data of the fold of ``context.run``. Raises FusionerError if no class has ``least`` pairs on disk."""
        sets, fold = context.sets, context.run.data.fold
        test, kept = _thinned(sets.tests["novel"], self.photos)
        pairs = [(kept[scene], name) for scene, name in sets.test_pairs["novel"] if scene in kept]
        counts = Counter(name for _, name in pairs)
        pairs = [(scene, name) for scene, name in pairs if counts[name] >= self.least]
        if not pairs:
            raise FusionerError(
                f"no class of fold {fold} has {self.least} pairs of the published list in {self.voc_root} "
                f"({dict(counts)}): leave the fold out, or lower least"
            )
        parts = (_thinned(sets.train, self.photos)[0], test)
        train, tested = (context.features(part, f"fold {fold}") for part in parts)
        return FoldData(train, tested, pairs)

    def source(self, context: RunContext) -> StoredBatchSource:
        """The fold's training photographs, at most ``photos`` of them."""
        return StoredBatchSource(self.data(context).train)

    def evaluate(self, trained: TrainedRun) -> dict[str, Any]:
        """mIoU (0-1) of the held-out classes: asked one at a time (single) and all at once (multi); IoU by class.

        loss: of the last 20 steps. seconds: of training and evaluation, on ``threads`` threads.
        """
        started, data, model = time.perf_counter(), self.data(trained.context), trained.checkpoint.model
        queries = {"single": single_queries(data.pairs), "multi": data.together}
        counts = {
            figure: evaluate(model, data.test, trained.context.text_cache, asked, quiet=True).counts.only(data.classes)
            for figure, asked in queries.items()
        }
        measured = {
            **{figure: found.miou for figure, found in counts.items()},
            "classes": {figure: {row["name"]: row["iou"] for row in found.table()} for figure, found in counts.items()},
            "loss": trained.mean_loss(20),
            "parameters": trained.parameters,
            "seconds": trained.seconds + time.perf_counter() - started,
            "threads": torch.get_num_threads(),
        }
        photos = {"train": len(data.train), "test": len(data.test), "pairs": len(data.pairs)}
        return {"measured": measured, "photos": photos}


def _thinned(scenes: Scenes, most: int) -> tuple[Scenes, dict[int, int]]:
    """At most ``most`` of ``scenes`` (0: all), evenly spaced, and the new index of each that is kept."""
    count = min(most, len(scenes)) if most else len(scenes)
    indices = [place * len(scenes) // count for place in range(count)]
    return Subset(scenes, indices), {index: place for place, index in enumerate(indices)}
