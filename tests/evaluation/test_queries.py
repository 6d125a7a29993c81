"""Queries by hand, and by what holds for any of them."""

from fusionerlib.evaluation.queries import Query, distractor_queries, shuffled, single_queries
from tests.shapes import Shapes

NAMES = ["red box", "green box", "blue box", "yellow box"]


def test_queries_ask_what_they_say() -> None:
    scenes = Shapes(9)
    assert single_queries([(3, "cat")]) == [Query(3, ("cat",))]
    asked = distractor_queries(scenes, vocabulary=[*NAMES, "red ball", "blue ball"], names=4, hard=1.0, seed=0)
    assert asked == distractor_queries(scenes, vocabulary=[*NAMES, "red ball", "blue ball"], names=4, hard=1.0, seed=0)
    for query in asked:
        assert set(scenes.names(query.scene)) <= set(query.names) and len(set(query.names)) == len(query.names) == 4
    assert any(tuple(query.names[: len(scenes.names(query.scene))]) != scenes.names(query.scene) for query in asked)
    mixed = shuffled([Query(i, tuple(NAMES)) for i in range(20)], seed=1)
    assert len({query.names for query in mixed}) > 5 and all(sorted(query.names) == sorted(NAMES) for query in mixed)
