"""A study on photographs: trainings with folds of PASCAL-5i held out, each of which leaves a record when it is done."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import Field

from fusionerlib.config import PLACES, Frozen, RunConfig, checked
from fusionerlib.datasets.sets import load_datasets
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.progress import each
from fusionerlib.records import measured_in, read_record
from fusionerlib.runs import TrainedRun, train_and_evaluate
from fusionerlib.training.batch_sources import BatchSource


@runtime_checkable
class Training(Protocol):
    """One training of a study: a dataclass whose fields are columns of the study's rows."""

    @property
    def stem(self) -> str:
        """A name that is unique in the study, for files."""
        ...


class PhotoStudy(Frozen):
    """The settings that all studies on photographs share. A subclass says what is trained and evaluated.

    run_dir: the folder that gets the study's folder. voc_root, coco_root: folders of PASCAL VOC and COCO. camvid_root:
    of CamVid in the layout of one's own data, None to train without it. vectors: a
    parquet table of CLIP's text embeddings of COCO's names. folds: of PASCAL-5i, each held out in turn. jobs: trainings
    at a time, each on an equal share of the cores.
    """

    run_dir: str = "outputs/notebooks"
    voc_root: Path = Path("data/pascal")
    coco_root: Path = Path("data/coco")
    camvid_root: Path | None = None
    vectors: Path = Path("data/clip-vit-b32.parquet")
    folds: tuple[int, ...] = (1, 2, 3)
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = Field(default=1, ge=1)

    @property
    def directory(self) -> Path:
        """``run_dir`` as a path."""
        return Path(self.run_dir)

    @property
    def folder(self) -> Path:
        """The study's folder, for records and features."""
        raise NotImplementedError

    @property
    def limits(self) -> dict[str, Any]:
        """Settings that change results and are not in a training's config."""
        return {}

    @property
    def needs_vectors(self) -> bool:
        """Whether a training reads ``vectors``."""
        return True

    def trials(self) -> Sequence[Training]:
        """All trainings, in the order in which they run."""
        raise NotImplementedError

    def run_of(self, trial: Any) -> RunConfig:
        """The config of a training."""
        raise NotImplementedError

    def source(self, context: RunContext) -> BatchSource | None:
        """The batch source of a training; None for the run's own."""
        return None

    def evaluate(self, trained: TrainedRun) -> Mapping[str, Any]:
        """Entries of a training's record; ``measured`` becomes its row."""
        raise NotImplementedError

    def record(self, trial: Training) -> Path:
        """The file of a training's record."""
        return self.folder / "runs" / f"{trial.stem}.json"

    def train(self, trial: Training, context: RunContext | None = None) -> None:
        """Train and evaluate, and write the record. context: one that holds encoders of the study's other runs."""
        run = self.run_of(trial)
        own = RunContext(run) if context is None else context.with_run(run)
        train_and_evaluate(
            own,
            directory=self.folder / "training" / trial.stem,
            record=self.record(trial),
            evaluate=lambda trained: {"study": self.limits, **self.evaluate(trained)},
            source=self.source(own),
            quiet=True,
        )

    def require_data(self) -> None:
        """Raises FusionerError that names every missing data set, where it was looked for, and what is expected."""
        voc, coco, vectors = self.voc_root, self.coco_root, self.vectors
        wanted = [
            ("PASCAL VOC", voc, voc.is_dir(), "the folder that holds VOCdevkit"),
            ("COCO", coco, coco.is_dir(), "the folder that holds annotations/instances*.json"),
        ]
        if self.needs_vectors:
            wanted.append(("the text vectors", vectors, vectors.is_file(), "a parquet table of names and embeddings"))
        if missing := [f"{what} ({path}): expected {kind}" for what, path, there, kind in wanted if not there]:
            raise FusionerError(f"this study needs data that is not on this machine: {'; '.join(missing)}")


def run_study(study: PhotoStudy, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Train and evaluate every training of ``study`` that has no record; returns ``rows_of`` the study.

    An interrupted training goes on, and one that fails does not stop the others. Raises FusionerError if data is
    missing, if a record is of other settings or other data, and at the end if trainings failed.
    """
    study.require_data()
    waiting = [trial for trial in study.trials() if not finished(study, trial)]
    done: dict[str, list[Path]] = {}
    runs: dict[str, RunConfig] = {}
    for trial in (trial for trial in study.trials() if trial not in waiting):
        run = study.run_of(trial)
        key = run.data.model_dump_json()
        runs[key] = run
        done.setdefault(key, []).append(study.record(trial))
    for key, records in done.items():  # each fold's data once
        require_same_data(records, runs[key])
    outcomes = each(_outcomes(study, waiting), "trainings", total=len(waiting), unit="run", quiet=quiet)
    failed = {trial.stem: error for trial, error in outcomes if error is not None}
    if failed:
        reasons = Counter(str(error) for error in failed.values())
        causes = "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
        error = FusionerError(
            f"{len(failed)} of {len(waiting)} trainings failed, {', '.join(failed)} ({causes}): correct that and run "
            "the study again"
        )
        raise error from next(iter(failed.values()))
    return rows_of(study)


def _outcomes(study: PhotoStudy, trials: Sequence[Training]) -> Iterator[tuple[Training, BaseException | None]]:
    """Run the trainings; yields each when it is over, with its error if it failed."""
    if study.jobs == 1:
        context = RunContext(study.run_of(trials[0])) if trials else None
        for trial in trials:
            try:
                study.train(trial, context)
            except Exception as error:
                yield trial, error
            else:
                yield trial, None
        return
    threads = max(1, torch.get_num_threads() // study.jobs)
    # Spawned processes: a forked one would inherit the parent's threads and open files.
    with ProcessPoolExecutor(
        study.jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        tasks = {pool.submit(study.train, trial): trial for trial in trials}
        for task in as_completed(tasks):
            yield tasks[task], task.exception()


def rows_of(study: PhotoStudy) -> list[dict[str, Any]]:
    """A row for every training that has a record: its fields, and the record's ``measured``."""
    records = [(trial, study.record(trial)) for trial in study.trials() if study.record(trial).is_file()]
    return [{**vars(trial), **measured_in(file)} for trial, file in records]


def finished(study: PhotoStudy, trial: Training) -> bool:
    """Whether the training has a record. Raises FusionerError if the record is of other settings."""
    file = study.record(trial)
    if not file.is_file():
        return False
    kept = read_record(file)
    try:
        config = checked(RunConfig, kept.get("config", {}))
    except FusionerError as error:
        raise FusionerError(
            f"{file} was written by another version of the library ({error}): give this study another folder, or "
            "delete the records in that one"
        ) from error
    old = {**_decisive(config), **kept.get("study", {})}
    new = {**_decisive(study.run_of(trial)), **study.limits}
    # "auto" was replaced when the training began (``RunContext``).
    changed = next((key for key in new if new[key] != "auto" and old.get(key) != new[key]), None)
    if changed is not None:
        raise FusionerError(
            f"{file} is of another study ({changed} was {old.get(changed)!r}, is {new[changed]!r}): "
            "give this study another folder, or delete the records in that one that do not fit"
        )
    return True


def require_same_data(records: Iterable[Path], run: RunConfig) -> None:
    """Raises FusionerError that names the ``records`` which were measured on other data than that of ``run`` now.

    A record of a version that kept no fingerprint is taken as it is.
    """
    kept = {file: data for file in records if (data := read_record(file).get("data"))}
    now = load_datasets(run.data).fingerprint if kept else ""
    if other := [file for file, data in kept.items() if data != now]:
        raise FusionerError(
            f"the images or masks in {run.data.root} changed after {len(other)} records were measured on them, such as "
            f"{other[0]}: delete those records to train and measure them again, or give another folder"
        )


def _decisive(run: RunConfig) -> dict[str, Any]:
    """The leaves of a config that change its results: not where files lie, nor the number of worker processes."""
    leaves = {f"{section}.{leaf}": value for section, part in run for leaf, value in part}
    for place in (*(f"data.{leaf}" for leaf in PLACES), "training.workers"):
        del leaves[place]
    templates, text = run.pair.templates, run.pair.text
    return leaves | {"pair.templates": Path(templates).name, "pair.text": text.split(":")[0]}
