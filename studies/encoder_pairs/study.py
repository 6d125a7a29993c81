"""Pairs of encoders compared as in Table 1 of the paper, at a size for one small machine: what is compared on what.

One visual encoder with two text encoders, early and late fusion, on photographs without a fold's classes under any of
their names. Every run has the same budget, names and template, and leaves one record (``pair_runs`` makes them).
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import Field

from fusionerlib.config import RunConfig
from studies.records import PhotoStudy

TEXTS = ("MiniLM", "CLIP")
"""The packaged sentence encoder, and CLIP's text tower by the vectors that it made."""

FUSIONS = {"early": "fusioner", "late": "late"}
"""What the paper calls them, and ``FusionConfig.kind``."""

TEMPLATE = "a {}"
"""The one template of both texts: that of the published vectors."""


@dataclass(frozen=True)
class Variant:
    """One run: which text encoder, how words and patches meet, which fold is held out, which seed."""

    text: str
    fusion: str
    fold: int
    seed: int

    @property
    def stem(self) -> str:
        """The run's name among files."""
        return f"{self.text.lower()}-{self.fusion}-fold{self.fold}-seed{self.seed}"


class Study(PhotoStudy):
    """What is compared, on what, and for how long; the parameters of notebook 07.

    Everything goes into the folder ``encoder_pairs`` of ``run_dir``. novel: what the pixels of a fold's classes are to
    training. positives, negatives, text_noise: as in ``TrainingConfig``, the same for both texts; by default the
    paper's sample, one name that is in the photograph and no absent one. photos: at most so many training and test
    photographs, evenly chosen; 0 takes all. least: a class is measured where the fold's list has at least so many pairs
    on disk.
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
        """Where records, features and the template go."""
        return self.directory / "encoder_pairs"

    @property
    def template(self) -> Path:
        """The text file of the one template."""
        return self.folder / "template.txt"

    @property
    def limits(self) -> dict[str, int]:
        """What decides figures beside a run's config."""
        return {"photos": self.photos, "least": self.least}

    def trials(self) -> list[Variant]:
        """Every run, one seed after the other, so that a stopped study has whole tables."""
        texts = product(self.seeds, self.folds, TEXTS, FUSIONS)
        return [Variant(text=text, fusion=fusion, fold=fold, seed=seed) for seed, fold, text, fusion in texts]

    def run_of(self, trial: Variant) -> RunConfig:
        """The config of one run."""
        return RunConfig.flat(
            preset="small",
            text="packaged" if trial.text == "MiniLM" else f"vectors:{self.vectors}",
            templates=str(self.template),
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
