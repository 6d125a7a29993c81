"""Scenes of an evaluation as rows of pictures: what was asked, what is there, what was predicted."""

from collections.abc import Sequence

from fusionerlib.datasets.scene import Scenes
from fusionerlib.evaluation import Query, predict
from fusionerlib.features import StoredScenes
from fusionerlib.fusion import SegmentationModel
from fusionerlib.metrics import decide
from fusionerlib.plots.evaluation import SceneRow
from fusionerlib.words import WordTable


def answered(
    model: SegmentationModel,
    scenes: Scenes,
    stored: StoredScenes,
    words: WordTable,
    queries: Sequence[Query],
    *,
    threshold: float = 0.5,
) -> list[SceneRow]:
    """``queries`` answered again, with their images, ready for ``plots.scene_rows``."""
    return [
        SceneRow(
            title="asked: 1 name" if len(query.names) == 1 else f"asked: {len(query.names)} names",
            image=scenes[query.scene].image,
            names=query.names,
            truth=target,
            predicted=decide(probabilities, threshold=threshold),
        )
        for query, probabilities, target in predict(model, stored, words, queries, quiet=True)
    ]
