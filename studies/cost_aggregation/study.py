"""Cost aggregation and unseen classes: trainings that differ in one setting, by fold of PASCAL-5i and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from fusionerlib.config import RunConfig
from fusionerlib.runs import TrainedRun, packaged_run
from studies.cost_aggregation.generalisation import generalisation
from studies.photo_study import PhotoStudy

CLASSES = ("cat", "chair", "cow", "dog", "horse", "person", "sheep", "couch")
"""Classes with at least ten published validation pairs among the photographs of the results in README.md."""

Changes = Mapping[str, Any]
PLAIN = {"visual_tokens": "", "text_tokens": "", "templates": "none", "synonyms": "", "similarity": "learned"}
"""The packaged pair in its two embedding spaces, tied by a learned linear map."""

CONTROLS: dict[str, Changes] = {
    "class-agnostic": {**PLAIN, "text": "constant", "positives": 1, "negatives": 0},
    "bmvc2022 recipe": {**PLAIN, "similarity": "cosine", "preset": "small", "recipe": "bmvc2022", "feed": "stored"},
    "CLIP text vectors": {**PLAIN, "text": "vectors:{vectors}"},
}
"""Controls of ``modern``.

class-agnostic trains on the mask of one present name at a time, with one text token for all names: it learns to guess
which object is asked for. (The control of that name in ``studies.methods`` trains on the union of all objects.)
bmvc2022 recipe is the paper's architecture and recipe at the size of the preset ``small``.
"""

VARIANTS: dict[str, Changes] = {
    "unaligned MiniLM": PLAIN,
    "ConSE vectors": {"visual_tokens": "conse", "text_tokens": "", "similarity": "cosine"},
    "no clothes for person": {"synonyms": ""},
    "templates: eight": {"templates": "eight"},
    "no negatives": {"negatives": 0},
    "3 negatives": {"negatives": 3},
    "hard negatives": {"hard_negatives": 0.5},
    "names drawn evenly": {"balanced": True},
    "BCE alone": {"loss": "bce"},
    "no softmax": {"loss": "bce+dice"},
    "focal + Dice": {"loss": "focal+dice"},
    "no confidence rescaling": {"confidence_rescaling": 0.0},
    "two views": {"views": 2},
    "224 pixels": {"size": 224},
    "448 pixels": {"size": 448},
    "no decoder": {"decoder_scales": ()},
    "decoder to 4 x": {"decoder_scales": (2, 4)},
    "bilinear decoder": {"upsample": "features", "decoder_width": 48},
    "no examples": {"examples": False},
    "no guidance channels": {"guidance_channels": 1},
    "half as wide": {"width": 24},
    "three blocks": {"depth": 3},
}
"""Settings that differ from ``modern`` in one thing."""

LACKING = frozenset(
    {"unaligned MiniLM", "ConSE vectors", "no clothes for person", "no negatives", "3 negatives", "BCE alone"}
    | {
        "no softmax",
        "no confidence rescaling",
        "no examples",
        "224 pixels",
        "no decoder",
        "no guidance channels",
        "half as wide",
    }
)
"""Settings without something that ``modern`` has: their loss is its gain. The others have something that it lacks."""

LEVELS = tuple(round(level / 100, 2) for level in range(30, 95, 5))
"""Thresholds that a record has figures of."""

BASE = "modern"
SETTINGS: dict[str, Changes] = {BASE: {}, **CONTROLS, **VARIANTS}


@dataclass(frozen=True)
class Trial:
    """One training: setting, held-out fold, seed, number of steps of 12 images."""

    setting: str
    fold: int
    seed: int
    steps: int

    @property
    def stem(self) -> str:
        """The training's name, for files."""
        plain = "".join(letter if letter.isalnum() else "-" for letter in self.setting.lower())
        return f"{plain}-steps{self.steps}-fold{self.fold}-seed{self.seed}"


class CostAggregationStudy(PhotoStudy):
    """What is trained, on what, and for how long: the parameters of notebook 08. Its folder is ``transfer``.

    settings: names of ``SETTINGS``; ``modern`` is always added. seeds, steps: of ``modern``; controls have the first
    ``control_seeds`` of these seeds. Variants have the first ``variant_seeds`` and ``variant_steps`` steps, and
    ``modern`` is trained for ``variant_steps`` too, with all seeds, as their base. threshold: of the evaluation.
    """

    control_seeds: int = Field(default=1, ge=1)
    variant_seeds: int = Field(default=1, ge=1)
    settings: tuple[str, ...] = tuple(CONTROLS)
    steps: int = Field(default=600, ge=1)
    variant_steps: int = Field(default=150, ge=1)
    size: int = Field(default=320, ge=32, multiple_of=32)
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)

    @field_validator("settings")
    @classmethod
    def _known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in given if name not in SETTINGS]:
            raise ValueError(f"no setting {unknown[0]!r}: known are {', '.join(SETTINGS)}")
        return tuple(dict.fromkeys((BASE, *given)))

    @property
    def limits(self) -> dict[str, Any]:
        """Whether CamVid's images train too: a run's config holds where they lie, which is not compared."""
        return {} if self.camvid_root is None else {"camvid": True}

    @property
    def folder(self) -> Path:
        """The folder of records and features; its name is that of the first records."""
        return self.directory / "transfer"

    @property
    def needs_vectors(self) -> bool:
        """Whether the control that reads them is among the settings."""
        return "CLIP text vectors" in self.settings

    def trials(self) -> list[Trial]:
        """Every training, ``modern`` and the controls first, one seed after the other."""
        main = [name for name in self.settings if name not in VARIANTS]
        others = [name for name in self.settings if name in VARIANTS]
        parts = (
            ([BASE], self.seeds, self.steps),
            (main, self.seeds[: self.control_seeds], self.steps),
            ([BASE] if others else [], self.seeds, self.variant_steps),
            (others, self.seeds[: self.variant_seeds], self.variant_steps),
        )
        trials = [
            Trial(name, fold, seed, steps)
            for names, seeds, steps in parts
            for seed in seeds
            for name in names
            for fold in self.folds
        ]
        return list(dict.fromkeys(trials))

    def main(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows of full trainings: ``modern`` and the controls."""
        return [row for row in rows if row["steps"] == self.steps and row["setting"] not in VARIANTS]

    def short(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows of short trainings: ``modern`` and the variants."""
        return [row for row in rows if row["steps"] == self.variant_steps and row["setting"] in (BASE, *VARIANTS)]

    def run_of(self, trial: Trial) -> RunConfig:
        """The config of one training."""
        changes = dict(SETTINGS[trial.setting])
        # The paper's batches are larger: the number of images is kept.
        steps = max(1, trial.steps * 12 // 32) if changes.get("recipe") == "bmvc2022" else trial.steps
        changes = {
            key: value.format(vectors=self.vectors) if isinstance(value, str) else value
            for key, value in changes.items()
        }
        return packaged_run(
            **{
                "voc": self.voc_root,
                "coco": self.coco_root,
                "camvid": self.camvid_root,
                "features": self.folder / "features",
                "fold": trial.fold,
                "steps": steps,
                "warmup": min(30, steps),
                "checkpoint_every": steps,
                "size": self.size,
                "seed": trial.seed,
                **changes,
            }
        )

    def evaluate(self, trained: TrainedRun) -> dict[str, Any]:
        """``generalisation``, loss of the last 50 steps, parameters, number of images, core seconds of the training."""
        training = trained.context.run.training
        evaluator = trained.evaluator(threshold=self.threshold)
        measured = {
            **generalisation(evaluator, classes=CLASSES, thresholds=LEVELS),
            "loss": trained.mean_loss(50),
            "parameters": trained.parameters,
            "images": training.steps * training.batch,
            "core seconds": trained.core_seconds,
            "threads": torch.get_num_threads(),
        }
        return {"measured": measured, "trained_names": trained.checkpoint.trained_names}
