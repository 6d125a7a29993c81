"""A checkpoint measured on a benchmark: whole images or sliding windows, and a threshold from training classes."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusionerlib.checkpoints import Checkpoint
from fusionerlib.datasets.benchmarks import Benchmark, other_benchmarks, own_benchmarks
from fusionerlib.datasets.categories import unseen
from fusionerlib.datasets.scene import Scenes, vocabulary
from fusionerlib.datasets.transforms import Subset
from fusionerlib.evaluation.protocols import Inference, Rule, episodes
from fusionerlib.evaluation.queries import Query, absent_queries, distractor_queries, single_queries
from fusionerlib.evaluation.scoring import Evaluation, Prediction, predict, score
from fusionerlib.evaluation.sliding import predict_windows
from fusionerlib.evaluation.thresholds import ThresholdTable
from fusionerlib.frozen.workspace import Workspace


@dataclass(frozen=True)
class Measurement:
    """What came out of one benchmark: at the fixed threshold, and in ``table`` at every other."""

    queries: list[Query]
    evaluation: Evaluation
    table: ThresholdTable


@dataclass(frozen=True)
class Measure:
    """How a checkpoint is measured. names_asked: of a scene whose benchmark says neither pairs nor names."""

    work: Workspace
    trained: Checkpoint
    inference: Inference = "whole"
    threshold: float = 0.5
    rule: Rule = "all"
    names_asked: int = 8

    def benchmarks(self, *, dataset: str = "", root: str = "", all_at_once: bool = True) -> dict[str, Benchmark]:
        """The tests of the run's own data, or of another ``dataset`` in the folder ``root``; see ``benchmarks``.

        Raises FusionerError for a data set that can't be tested on, and where files are missing.
        """
        config = self.work.run.data
        if dataset:
            trained = self.trained.trained_names
            return other_benchmarks(dataset, Path(root), size=config.size, trained=trained)
        return own_benchmarks(config, self.work.sets, all_at_once=all_at_once)

    def unseen(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that training had under none of their names."""
        return unseen(names, trained=self.trained.trained_names)

    def queries(self, benchmark: Benchmark) -> list[Query]:
        """The questions of ``benchmark``, published pairs by the episode rule."""
        if benchmark.pairs is not None:
            by_class = self.work.run.data.dataset == "coco"
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
        train = self.work.sets.train
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
        work, model = self.work, self.trained.model
        if self.inference == "whole":
            return predict(model, work.features(benchmark.scenes, f"features of {description}"), work.words, queries)
        size = work.run.data.size
        return predict_windows(model, benchmark.native, work.words, queries, visual=work.visual, window=size)
