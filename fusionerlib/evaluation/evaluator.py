"""A checkpoint measured on a benchmark: whole images or sliding windows, and a threshold from training classes.

The figures of an evaluation as rows of scalars: what ``metrics.json``, the report and the tables show.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusionerlib.checkpoints import Checkpoint
from fusionerlib.datasets.names import unseen
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.sets import Benchmark, other_benchmarks, own_benchmarks
from fusionerlib.datasets.transforms import Subset
from fusionerlib.evaluation.queries import (
    Inference,
    Query,
    Rule,
    absent_queries,
    distractor_queries,
    episodes,
    single_queries,
)
from fusionerlib.evaluation.scoring import (
    RECORD_NAMES,
    Evaluation,
    Prediction,
    predict,
    predict_windows,
    score,
    zero_shot,
)
from fusionerlib.evaluation.thresholds import ThresholdTable
from fusionerlib.features.context import RunContext


@dataclass(frozen=True)
class Measurement:
    """What came out of one benchmark: at the fixed threshold, and in ``table`` at every other."""

    queries: list[Query]
    evaluation: Evaluation
    table: ThresholdTable


@dataclass(frozen=True)
class Evaluator:
    """How a checkpoint is measured. names_asked: of a scene whose benchmark says neither pairs nor names."""

    context: RunContext
    trained: Checkpoint
    inference: Inference = "whole"
    threshold: float = 0.5
    rule: Rule = "all"
    names_asked: int = 8

    def benchmarks(self, *, dataset: str = "", root: str = "", all_at_once: bool = True) -> dict[str, Benchmark]:
        """The tests of the run's own data, or of another ``dataset`` in the folder ``root``; see ``benchmarks``.

        Raises FusionerError for a data set that can't be tested on, and where files are missing.
        """
        config = self.context.run.data
        if dataset:
            trained = self.trained.trained_names
            return other_benchmarks(dataset, Path(root), size=config.size, trained=trained)
        return own_benchmarks(config, self.context.sets, all_at_once=all_at_once)

    def unseen(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that training had under none of their names."""
        return unseen(names, trained=self.trained.trained_names)

    def queries(self, benchmark: Benchmark) -> list[Query]:
        """The questions of ``benchmark``, published pairs by the episode rule."""
        if benchmark.pairs is not None:
            by_class = self.context.run.data.dataset == "coco"
            return single_queries(episodes(benchmark.pairs, rule=self.rule, by_class=by_class))
        scenes = benchmark.scenes
        if benchmark.names:
            return [Query(index, benchmark.names) for index in range(len(scenes))]
        known = sorted({*self.trained.trained_names, *vocabulary(scenes)})
        return distractor_queries(scenes, vocabulary=known, names=self.names_asked, hard=1.0, seed=0)

    def __call__(self, benchmark: Benchmark, *, description: str = "test") -> Measurement:
        """All questions of ``benchmark`` answered."""
        return self.answer(benchmark, self.queries(benchmark), description=description)

    def answer(self, benchmark: Benchmark, queries: Sequence[Query], *, description: str = "test") -> Measurement:
        """``queries`` of the scenes of ``benchmark`` answered."""
        table = ThresholdTable(list(dict.fromkeys(name for query in queries for name in query.truth)))
        predictions = self.predictions(benchmark, queries, description=description)
        found = score(predictions, present=benchmark.scenes.names, threshold=self.threshold, table=table)
        return Measurement(list(queries), found, table)

    def absent(self, everything: Benchmark, *, names: Collection[str], seed: int = 0) -> Measurement:
        """Control of single names: for every scene of ``everything`` and every one of ``names`` in it, a name that the
        scene does not show is asked, drawn from the benchmark's; the answer is compared with the mask of the former.

        A model that paints whatever stands out scores as high as with the right name.
        """
        scenes = everything.scenes
        pairs = [(index, name) for index in range(len(scenes)) for name in scenes.names(index) if name in names]
        queries = absent_queries(single_queries(pairs), present=scenes.names, vocabulary=everything.names, seed=seed)
        return self.answer(everything, queries, description="absent names")

    def calibrate(self, kind: Benchmark, *, scenes: int, seed: int = 0) -> ThresholdTable:
        """The thresholds' table of ``scenes`` training images, asked as ``kind`` asks, for training names only.

        One by one: each image for the names that train on it. All at once: for all training names.
        """
        train = self.context.sets.train
        chosen = np.random.default_rng(seed).permutation(len(train))[:scenes].tolist()
        some = Subset(train, chosen)
        names = tuple(self.trained.trained_names) if kind.names else ()
        pairs = [(index, name) for index in range(len(some)) for name in some.names(index)]
        part = Benchmark(some, names=names, pairs=None if kind.pairs is None else pairs)
        return self.answer(part, self.queries(part), description="training images").table

    def shown(self, benchmark: Benchmark) -> Scenes:
        """The scenes of ``benchmark`` at the size that is asked: the input's, or with sliding windows their own."""
        return benchmark.scenes if self.inference == "whole" else benchmark.native

    def predictions(
        self, benchmark: Benchmark, queries: Sequence[Query], *, description: str = "test"
    ) -> Iterator[Prediction]:
        """``queries`` of the scenes of ``benchmark`` answered one by one."""
        context, model = self.context, self.trained.model
        if self.inference == "whole":
            return predict(
                model, context.features(benchmark.scenes, f"features of {description}"), context.text_cache, queries
            )
        size = context.run.data.size
        return predict_windows(model, benchmark.native, context.text_cache, queries, visual=context.visual, window=size)


Row = dict[str, int | float | str]

PUBLISHED = {"pascal": "pascal-5i", "photos": "pascal-5i", "coco": "coco-20i"}
"""Published tables by the data set of a run."""


def summary(
    evaluator: Evaluator, benchmarks: Mapping[str, Benchmark], results: Mapping[str, Measurement], *, other: str = ""
) -> dict[str, Row]:
    """One row a test, by the names that ``metrics.json`` uses (after ``other``'s, where that was the data set).

    A test of all names at once has the zero-shot triple. Where unseen names are asked one by one and all labels are
    known, the row ``..._absent`` is the control: a name that is not there was asked, and what it painted is compared
    with the object that is (miou); painted is its share of all pixels.
    """
    rows: dict[str, Row] = {}
    for name, result in results.items():
        row = _row(evaluator, result.evaluation.figures(), threshold=evaluator.threshold)
        if benchmarks[name].names:
            new = evaluator.unseen(benchmarks[name].names)
            row |= zero_shot(result.evaluation.iou, unseen=new)
        rows[_named(name, other)] = row
    if "novel" in results and "all" in benchmarks:
        everything = benchmarks["all"]
        found = evaluator.absent(everything, names=evaluator.unseen(everything.names))
        painted = found.table.row(evaluator.threshold)["painted"]
        figures = {**found.evaluation.figures(), "painted": painted}
        rows[_named("novel", other) + "_absent"] = _row(evaluator, figures, threshold=evaluator.threshold)
    return rows


def calibrate(
    evaluator: Evaluator,
    benchmarks: Mapping[str, Benchmark],
    results: Mapping[str, Measurement],
    *,
    scenes: int,
    other: str = "",
) -> tuple[dict[str, float], dict[str, Row]]:
    """Thresholds from ``scenes`` training images and training names, a test each, and the tests' rows at them.

    Empty where ``scenes`` is 0: nothing was asked for.
    """
    if not scenes:
        return {}, {}
    kinds: dict[bool, float] = {}
    chosen, rows = {}, {}
    for name, result in results.items():
        together = bool(benchmarks[name].names)
        if together not in kinds:
            kinds[together] = evaluator.calibrate(benchmarks[name], scenes=scenes).best()
        chosen[name] = kinds[together]
        iou = result.table.iou(chosen[name])
        figures = {"scenes": len(result.queries), "miou": result.table.miou(chosen[name])}
        row = _row(evaluator, figures, threshold=chosen[name])
        if together:
            row |= zero_shot(iou, unseen=evaluator.unseen(benchmarks[name].names))
        rows[_named(name, other) + "_calibrated"] = row
    return chosen, rows


def published_table(evaluator: Evaluator, *, other: str = "") -> str:
    """Which published table a run's figures may stand beside, "" for none."""
    own = evaluator.context.run.data.dataset
    if other:
        return "coco-20i->pascal-5i" if (own, other) == ("coco", "pascal") else ""
    return PUBLISHED.get(own, "")


def _row(evaluator: Evaluator, figures: Mapping[str, int | float], *, threshold: float) -> Row:
    """``figures``, and how they were measured."""
    return {**figures, "threshold": threshold, "episodes": evaluator.rule, "inference": evaluator.inference}


def _named(name: str, other: str) -> str:
    record = RECORD_NAMES.get(name, name)
    return f"{other}_{record}" if other else record
