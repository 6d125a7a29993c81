"""Pairs of encoders compared as in Table 1 of the paper, at a size for one small machine: what is compared on what.

One visual encoder with two text encoders, early and late fusion, on photographs without a fold's classes under any of
their names. Every run has the same budget, names and template, and leaves one record (``pair_runs`` makes them).
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fusionerlib.config import RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.notebook import NotebookParameters

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


class Study(NotebookParameters):
    """What is compared, on what, and for how long; the parameters of notebook 07.

    Everything goes into the folder ``encoder_pairs`` of ``run_dir``. voc_root, coco_root: folders of PASCAL VOC and
    COCO. vectors: a table of CLIP's text embeddings of COCO's names. novel: what the pixels of a fold's classes are to
    training. positives, negatives, text_noise: as in ``TrainingConfig``, the same for both texts; by default the
    paper's sample, one name that is in the photograph and no absent one. photos: at most so many
    training and test photographs, evenly chosen; 0 takes all. least: a class is measured where the fold's list has at
    least so many pairs on disk.
    """

    voc_root: Path = Path("data/pascal")
    coco_root: Path = Path("data/coco")
    vectors: Path = Path("data/clip-vit-b32.parquet")
    folds: tuple[int, ...] = (1, 2, 3)
    seeds: tuple[int, ...] = (0, 1, 2)
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

    def variants(self) -> list[Variant]:
        """Every run, one seed after the other, so that a stopped study has whole tables."""
        texts = product(self.seeds, self.folds, TEXTS, FUSIONS)
        return [Variant(text=text, fusion=fusion, fold=fold, seed=seed) for seed, fold, text, fusion in texts]

    def run_of(self, variant: Variant) -> RunConfig:
        """The config of one run."""
        return RunConfig.flat(
            text="packaged" if variant.text == "MiniLM" else f"vectors:{self.vectors}",
            templates=str(self.template),
            kind=FUSIONS[variant.fusion],
            dataset="photos",
            root=self.voc_root,
            coco=self.coco_root,
            novel=self.novel,
            features=self.folder / "features",
            fold=variant.fold,
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
            seed=variant.seed,
        )

    def record(self, variant: Variant) -> Path:
        """The file that one run leaves."""
        return self.folder / "runs" / f"{variant.stem}.json"


def rows_of(study: Study) -> list[dict[str, Any]]:
    """One row for every run that has a record: text, fusion, fold, seed, single and multi (mIoU, 0-1), classes
    (either figure's IoU by name), loss (of the last 20 steps), parameters, seconds on ``threads`` threads."""
    rows = []
    for variant in study.variants():
        if study.record(variant).is_file():
            record = json.loads(study.record(variant).read_text(encoding="utf-8"))
            rows.append({**vars(variant), **record["measured"]})
    return rows


def finished(study: Study, variant: Variant) -> bool:
    """Whether the run has a record; FusionerError where it has one of other settings."""
    file = study.record(variant)
    if not file.is_file():
        return False
    kept = json.loads(file.read_text(encoding="utf-8"))
    old = {**_decisive(checked(RunConfig, kept["config"])), **kept["study"]}
    new = {**_decisive(study.run_of(variant)), **study.limits}
    changed = next((key for key in new if old[key] != new[key]), None)
    if changed is not None:
        raise FusionerError(
            f"{file} is of another study ({changed} was {old[changed]!r}, is {new[changed]!r}): "
            "give this study another folder, or delete that one's runs/"
        )
    return True


def _decisive(run: RunConfig) -> dict[str, Any]:
    """The leaves of a run's config that decide its figures: where files lie does not."""
    leaves = {f"{section}.{leaf}": value for section, part in run for leaf, value in part}
    for place in ("data.root", "data.coco", "data.features", "pair.templates"):
        del leaves[place]
    return leaves | {"pair.text": leaves["pair.text"].split(":")[0]}


def require_data(study: Study) -> None:
    """Raises FusionerError naming every piece of data that is not on this machine, and what it must be."""
    wanted = {
        "PASCAL VOC": (study.voc_root, study.voc_root.is_dir(), "the folder that holds VOCdevkit"),
        "COCO": (study.coco_root, study.coco_root.is_dir(), "the folder that holds annotations/instances*.json"),
        "the text vectors": (study.vectors, study.vectors.is_file(), "a parquet table of names and embeddings"),
    }
    if missing := [f"{what} ({path}): expected {kind}" for what, (path, there, kind) in wanted.items() if not there]:
        raise FusionerError(f"this study needs data that is not on this machine: {'; '.join(missing)}")
