"""The figures of an evaluation as rows of scalars: what ``metrics.json``, the report and the tables show."""

from collections.abc import Mapping

from fusionerlib.datasets.benchmarks import Benchmark
from fusionerlib.evaluation.measuring import Measure, Measurement
from fusionerlib.evaluation.scoring import RECORD_NAMES, zero_shot

Row = dict[str, int | float | str]

PUBLISHED = {"pascal": "pascal-5i", "photos": "pascal-5i", "coco": "coco-20i"}
"""Published tables by the data set of a run."""


def summary(
    measure: Measure, benchmarks: Mapping[str, Benchmark], results: Mapping[str, Measurement], *, other: str = ""
) -> dict[str, Row]:
    """One row a test, by the names that ``metrics.json`` uses (after ``other``'s, where that was the data set).

    A test of all names at once has the zero-shot triple. Where unseen names are asked one by one and all labels are
    known, the row ``..._absent`` is the control: a name that is not there was asked, and what it painted is compared
    with the object that is (miou); painted is its share of all pixels.
    """
    rows: dict[str, Row] = {}
    for name, result in results.items():
        row = _row(measure, result.evaluation.figures(), threshold=measure.threshold)
        if benchmarks[name].names:
            new = measure.unseen(benchmarks[name].names)
            row |= zero_shot(result.evaluation.iou, unseen=new)
        rows[_named(name, other)] = row
    if "novel" in results and "all" in benchmarks:
        everything = benchmarks["all"]
        found = measure.absent(everything, names=measure.unseen(everything.names))
        painted = found.table.row(measure.threshold)["painted"]
        figures = {**found.evaluation.figures(), "painted": painted}
        rows[_named("novel", other) + "_absent"] = _row(measure, figures, threshold=measure.threshold)
    return rows


def calibrate(
    measure: Measure,
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
            kinds[together] = measure.calibrate(benchmarks[name], scenes=scenes).best()
        chosen[name] = kinds[together]
        iou = result.table.iou(chosen[name])
        figures = {"scenes": len(result.queries), "miou": result.table.miou(chosen[name])}
        row = _row(measure, figures, threshold=chosen[name])
        if together:
            row |= zero_shot(iou, unseen=measure.unseen(benchmarks[name].names))
        rows[_named(name, other) + "_calibrated"] = row
    return chosen, rows


def published_table(measure: Measure, *, other: str = "") -> str:
    """Which published table a run's figures may stand beside, "" for none."""
    own = measure.work.run.data.dataset
    if other:
        return "coco-20i->pascal-5i" if (own, other) == ("coco", "pascal") else ""
    return PUBLISHED.get(own, "")


def _row(measure: Measure, figures: Mapping[str, int | float], *, threshold: float) -> Row:
    """``figures``, and how they were measured."""
    return {**figures, "threshold": threshold, "episodes": measure.rule, "inference": measure.inference}


def _named(name: str, other: str) -> str:
    record = RECORD_NAMES.get(name, name)
    return f"{other}_{record}" if other else record
