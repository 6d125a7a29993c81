"""Scenes of an evaluation as rows of pictures: what was asked, what is there, what was predicted."""

from collections.abc import Iterable, Sequence

from fusionerlib.datasets.scene import Scenes
from fusionerlib.evaluation.metrics import decide
from fusionerlib.evaluation.queries import Query
from fusionerlib.evaluation.scoring import Prediction, predict
from fusionerlib.frozen.features import StoredScenes
from fusionerlib.frozen.words import WordTable
from fusionerlib.fusion import SegmentationModel
from fusionerlib.plots.evaluation import SceneRow


def drawn(predictions: Iterable[Prediction], scenes: Scenes, *, threshold: float = 0.5) -> list[SceneRow]:
    """Answers about ``scenes``, at the size of these, ready for ``plots.scene_rows``."""
    return [
        SceneRow(
            title="asked: 1 name" if len(query.names) == 1 else f"asked: {len(query.names)} names",
            image=scenes[query.scene].image,
            names=query.names,
            truth=target,
            predicted=decide(probabilities, threshold=threshold),
        )
        for query, probabilities, target in predictions
    ]


def answered(
    model: SegmentationModel,
    scenes: Scenes,
    stored: StoredScenes,
    words: WordTable,
    queries: Sequence[Query],
    *,
    threshold: float = 0.5,
) -> list[SceneRow]:
    """``queries`` answered again by their stored features, with their images."""
    return drawn(predict(model, stored, words, queries, quiet=True), scenes, threshold=threshold)
