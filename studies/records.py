"""Studies: trainings on photographs with folds of PASCAL-5i held out, each of which leaves a record when it is done."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fusionerlib.config import PLACES, Frozen, RunConfig, checked
from fusionerlib.errors import FusionerError


@runtime_checkable
class Training(Protocol):
    """One training of a study; its attributes are columns of the study's rows."""

    @property
    def stem(self) -> str:
        """Its name among files."""
        ...


class PhotoStudy(Frozen):
    """What studies on photographs are told; a subclass says what it trains, and where it all goes.

    run_dir: the folder that gets the study's own. voc_root, coco_root: folders of PASCAL VOC and COCO. vectors: a table
    of CLIP's text embeddings of COCO's names.
    folds: of PASCAL-5i, each held out in turn.
    """

    run_dir: str = "outputs/notebooks"
    voc_root: Path = Path("data/pascal")
    coco_root: Path = Path("data/coco")
    vectors: Path = Path("data/clip-vit-b32.parquet")
    folds: tuple[int, ...] = (1, 2, 3)
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def directory(self) -> Path:
        """``run_dir`` as a path."""
        return Path(self.run_dir)

    @property
    def folder(self) -> Path:
        """Where records and features go."""
        raise NotImplementedError

    @property
    def limits(self) -> dict[str, Any]:
        """What decides figures beside a training's config."""
        return {}

    @property
    def needs_vectors(self) -> bool:
        """Whether any training reads ``vectors``."""
        return True

    def trials(self) -> Sequence[Training]:
        """Every training."""
        raise NotImplementedError

    def run_of(self, trial: Any) -> RunConfig:
        """The config of one training."""
        raise NotImplementedError

    def record(self, trial: Training) -> Path:
        """The file that one training leaves."""
        return self.folder / "runs" / f"{trial.stem}.json"

    def require_data(self) -> None:
        """Raises FusionerError naming every piece of data that is not on this machine, and what it must be."""
        voc, coco, vectors = self.voc_root, self.coco_root, self.vectors
        wanted = [
            ("PASCAL VOC", voc, voc.is_dir(), "the folder that holds VOCdevkit"),
            ("COCO", coco, coco.is_dir(), "the folder that holds annotations/instances*.json"),
        ]
        if self.needs_vectors:
            wanted.append(("the text vectors", vectors, vectors.is_file(), "a parquet table of names and embeddings"))
        if missing := [f"{what} ({path}): expected {kind}" for what, path, there, kind in wanted if not there]:
            raise FusionerError(f"this study needs data that is not on this machine: {'; '.join(missing)}")


def rows_of(study: PhotoStudy) -> list[dict[str, Any]]:
    """One row for every training that has a record: its attributes, and what its record says was measured."""
    records = [(trial, study.record(trial)) for trial in study.trials() if study.record(trial).is_file()]
    return [{**vars(trial), **json.loads(file.read_text(encoding="utf-8"))["measured"]} for trial, file in records]


def finished(study: PhotoStudy, trial: Training) -> bool:
    """Whether the training has a record; FusionerError where it has one of other settings."""
    file = study.record(trial)
    if not file.is_file():
        return False
    kept = json.loads(file.read_text(encoding="utf-8"))
    old = {**_decisive(checked(RunConfig, kept["config"])), **kept.get("study", {})}
    new = {**_decisive(study.run_of(trial)), **study.limits}
    changed = next((key for key in new if old.get(key) != new[key]), None)
    if changed is not None:
        raise FusionerError(
            f"{file} is of another study ({changed} was {old.get(changed)!r}, is {new[changed]!r}): "
            "give this study another folder, or delete the records in that one that do not fit"
        )
    return True


def _decisive(run: RunConfig) -> dict[str, Any]:
    """The leaves of a run's config that decide its figures: where files lie does not, nor how many workers read."""
    leaves = {f"{section}.{leaf}": value for section, part in run for leaf, value in part}
    for place in (*(f"data.{leaf}" for leaf in PLACES), "training.workers"):
        del leaves[place]
    templates, text = run.pair.templates, run.pair.text
    return leaves | {"pair.templates": Path(templates).name, "pair.text": text.split(":")[0]}
