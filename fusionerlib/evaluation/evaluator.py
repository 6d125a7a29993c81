"""Evaluation of a checkpoint on benchmarks, and its results as the rows of scalars that ``metrics.json`` holds."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusionerlib.checkpoints import Checkpoint
from fusionerlib.datasets.names import unseen
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.sets import PUBLISHED, Benchmark, other_benchmarks, own_benchmarks
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
from fusionerlib.evaluation.scoring import Evaluation, Prediction, predict, predict_windows, score, zero_shot
from fusionerlib.evaluation.thresholds import ThresholdTable
from fusionerlib.features.context import RunContext
from fusionerlib.inference.edges import chosen_edges

Row = dict[str, int | float | str]
"""One row of ``metrics.json``: metrics of one test and how they were measured."""

TEST_NAMES = {
    "seen": "seen_names",
    "combinations": "unseen_combinations",
    "objects": "unseen_objects",
    "novel": "novel_classes",
    "all": "all_classes",
    "validation": "validation",
}
"""The keys of ``metrics.json`` by the names of the benchmarks."""


@dataclass(frozen=True)
class BenchmarkResult(Evaluation):
    """The evaluation of one benchmark at the evaluator's threshold; ``table`` gives every other threshold."""

    table: ThresholdTable


@dataclass(frozen=True)
class Evaluator:
    """How a checkpoint is evaluated.

    inference: "whole" resizes the image to the input size, "sliding" uses windows at its own size.
    edges: how masks get to the size of the labels, "guided" or "bilinear"; "" takes what suits the model
    (``inference.edges.chosen_edges``). Raises FusionerError for another word.
    threshold: a pixel is background where no probability exceeds it, 0-1. rule: which published pairs are asked.
    names_asked: number of names asked of a scene in a benchmark without published pairs and without a class list.
    """

    context: RunContext
    checkpoint: Checkpoint
    inference: Inference = "whole"
    threshold: float = 0.5
    rule: Rule = "all"
    names_asked: int = 8
    edges: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", chosen_edges(self.edges, self.checkpoint.model))

    def benchmarks(self, *, dataset: str = "", root: str = "", all_at_once: bool = True) -> dict[str, Benchmark]:
        """The benchmarks of the run's own data, or of another ``dataset`` in the folder ``root``.

        all_at_once: include the all-classes benchmark where every class is labelled. A benchmark that would then ask
        the same names of the same scenes is left out.
        Raises FusionerError for a data set without a benchmark, and where files are missing.
        """
        config = self.context.run.data
        if dataset:
            trained = self.checkpoint.trained_names
            return other_benchmarks(dataset, Path(root), size=config.size, trained=trained)
        found = own_benchmarks(config, self.context.sets, all_at_once=all_at_once)
        if "all" in found:
            found = {name: one for name, one in found.items() if not self._asks_all(one, found["all"])}
        return found

    def _asks_all(self, benchmark: Benchmark, everything: Benchmark) -> bool:
        """Whether ``benchmark`` would ask the scenes of ``everything`` the same names: a folder with few names."""
        if benchmark.names or benchmark.pairs is not None or len(benchmark.scenes) != len(everything.scenes):
            return False
        known = {*self.checkpoint.trained_names, *vocabulary(benchmark.scenes)}
        return known == set(everything.names) and len(known) <= self.names_asked

    def unseen(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that did not occur in training, under any of their synonyms."""
        return unseen(names, trained=self.checkpoint.trained_names)

    def queries(self, benchmark: Benchmark) -> list[Query]:
        """The queries of ``benchmark``.

        Single-prompt where it has published (image, class) pairs, all-classes where it has a class list; otherwise
        each scene is asked for its own names and for similar absent ones.
        """
        if benchmark.pairs is not None:
            by_class = self.context.run.data.dataset == "coco"
            return single_queries(episodes(benchmark.pairs, rule=self.rule, by_class=by_class))
        scenes = benchmark.scenes
        if benchmark.names:
            return [Query(index, benchmark.names) for index in range(len(scenes))]
        known = sorted({*self.checkpoint.trained_names, *vocabulary(scenes)})
        return distractor_queries(scenes, vocabulary=known, names=self.names_asked, hard=1.0, seed=0)

    def __call__(self, benchmark: Benchmark, *, description: str = "test") -> BenchmarkResult:
        """Evaluate all queries of ``benchmark``. description: shown with the progress of feature extraction."""
        return self.evaluate(benchmark, self.queries(benchmark), description=description)

    def evaluate(self, benchmark: Benchmark, queries: Sequence[Query], *, description: str = "test") -> BenchmarkResult:
        """Evaluate ``queries`` about the scenes of ``benchmark``."""
        table = ThresholdTable(list(dict.fromkeys(name for query in queries for name in query.target_names)))
        predictions = self.predictions(benchmark, queries, description=description)
        result = score(predictions, present=benchmark.scenes.names, threshold=self.threshold, table=table)
        return BenchmarkResult(result.counts, result.scores, table)

    def absent_prompts(self, everything: Benchmark, *, names: Collection[str], seed: int = 0) -> BenchmarkResult:
        """The absent-prompt control of the single-prompt protocol.

        everything: an all-classes benchmark. For each of ``names`` in each scene, a name of the benchmark that the
        scene does not show is asked instead (drawn from ``seed``), and the prediction is compared with the mask of the
        name that is there. A model that segments salient objects whatever the prompt scores as high as with the right
        name.
        """
        scenes = everything.scenes
        pairs = [(index, name) for index in range(len(scenes)) for name in scenes.names(index) if name in names]
        queries = absent_queries(single_queries(pairs), present=scenes.names, vocabulary=everything.names, seed=seed)
        return self.evaluate(everything, queries, description="absent names")

    def calibration_table(self, benchmark: Benchmark, *, scenes: int, seed: int = 0) -> ThresholdTable:
        """The threshold table of ``scenes`` random training images (drawn from ``seed``) and training names only.

        The protocol is that of ``benchmark``: single-prompt asks each image for the names that train on it,
        all-classes for all names of training.
        """
        train = self.context.sets.train
        chosen = np.random.default_rng(seed).permutation(len(train))[:scenes].tolist()
        some = Subset(train, chosen)
        names = tuple(self.checkpoint.trained_names) if benchmark.names else ()
        pairs = [(index, name) for index in range(len(some)) for name in some.names(index)]
        part = Benchmark(some, names=names, pairs=None if benchmark.pairs is None else pairs)
        return self.evaluate(part, self.queries(part), description="training images").table

    def scenes(self, benchmark: Benchmark) -> Scenes:
        """The scenes of ``benchmark`` at the size of the predictions: the input size, or with windows their own."""
        return benchmark.scenes if self.inference == "whole" else benchmark.native

    def predictions(
        self, benchmark: Benchmark, queries: Sequence[Query], *, description: str = "test"
    ) -> Iterator[Prediction]:
        """The predictions for ``queries`` about the scenes of ``benchmark``, one at a time."""
        context, model = self.context, self.checkpoint.model
        if self.inference == "whole":
            stored = context.features(benchmark.scenes, f"features of {description}")
            images = benchmark.scenes if self.edges == "guided" else None
            return predict(model, stored, context.text_cache, queries, images=images)
        return predict_windows(
            model,
            benchmark.native,
            context.text_cache,
            queries,
            visual=context.visual,
            window=context.run.data.size,
            edges=chosen_edges(self.edges, model),
        )


def metrics_rows(
    evaluator: Evaluator,
    benchmarks: Mapping[str, Benchmark],
    results: Mapping[str, BenchmarkResult],
    *,
    other: str = "",
) -> dict[str, Row]:
    """One row a benchmark, by its key in ``metrics.json``. other: the data set, where it is not the run's own.

    An all-classes row also holds the zero-shot triple. Where unseen classes have a single-prompt and an all-classes
    benchmark, the row ``..._absent`` is the absent-prompt control; its ``painted`` is the predicted area, as a share
    of all pixels.
    """
    rows: dict[str, Row] = {}
    for name, result in results.items():
        row = _row(evaluator, result.figures(), threshold=evaluator.threshold)
        if benchmarks[name].names:
            row |= zero_shot(result.iou, unseen=evaluator.unseen(benchmarks[name].names))
        rows[_key(name, other)] = row
    if "novel" in results and "all" in benchmarks:
        everything = benchmarks["all"]
        control = evaluator.absent_prompts(everything, names=evaluator.unseen(everything.names))
        figures = {**control.figures(), "painted": control.table.row(evaluator.threshold)["painted"]}
        rows[_key("novel", other) + "_absent"] = _row(evaluator, figures, threshold=evaluator.threshold)
    return rows


def calibrated_rows(
    evaluator: Evaluator,
    benchmarks: Mapping[str, Benchmark],
    results: Mapping[str, BenchmarkResult],
    *,
    scenes: int,
    other: str = "",
) -> tuple[dict[str, float], dict[str, Row]]:
    """Calibrated thresholds by benchmark, and the benchmarks' rows at them (see ``metrics_rows``).

    scenes: number of training images that calibrate; with 0 nothing is calibrated and both are empty.
    """
    if not scenes:
        return {}, {}
    by_protocol: dict[bool, float] = {}
    chosen, rows = {}, {}
    for name, result in results.items():
        all_classes = bool(benchmarks[name].names)
        if all_classes not in by_protocol:
            by_protocol[all_classes] = evaluator.calibration_table(benchmarks[name], scenes=scenes).best()
        chosen[name] = by_protocol[all_classes]
        figures = {"scenes": len(result.queries), "miou": result.table.miou(chosen[name])}
        row = _row(evaluator, figures, threshold=chosen[name])
        if all_classes:
            row |= zero_shot(result.table.iou(chosen[name]), unseen=evaluator.unseen(benchmarks[name].names))
        rows[_key(name, other) + "_calibrated"] = row
    return chosen, rows


def published_table(evaluator: Evaluator, *, other: str = "") -> str:
    """The table of published results to compare with; "" where there is none. other: as in ``metrics_rows``."""
    own = evaluator.context.run.data.dataset
    if other:
        return "coco-20i->pascal-5i" if (own, other) == ("coco", "pascal") else ""
    return PUBLISHED.get(own, "")


def _row(evaluator: Evaluator, figures: Mapping[str, int | float], *, threshold: float) -> Row:
    return {
        **figures,
        "threshold": threshold,
        "episodes": evaluator.rule,
        "inference": evaluator.inference,
        "edges": evaluator.edges,
    }


def _key(name: str, other: str) -> str:
    key = TEST_NAMES.get(name, name)
    return f"{other}_{key}" if other else key
