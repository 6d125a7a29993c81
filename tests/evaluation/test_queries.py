"""Queries by hand and by what holds for any of them, and the published rules of episodes by hand."""

from collections import Counter

from fusionerlib.evaluation.queries import Query, distractor_queries, episodes, shuffled, single_queries
from tests.shapes import Shapes

NAMES = ["red box", "green box", "blue box", "yellow box"]
PASCAL = [(scene, "cat" if scene % 3 else "dog") for scene in range(346)]
COCO = [(scene, name) for name, count in (("fox", 3), ("cup", 1500)) for scene in range(count)]


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


def test_all_pairs_are_asked_once() -> None:
    assert episodes(PASCAL, rule="all") == PASCAL and episodes([], rule="hsnet") == []


def test_hsnet_goes_round_pascals_list() -> None:
    asked = episodes(PASCAL, rule="hsnet")
    assert len(asked) == 1000 and asked[:346] == PASCAL and asked[346] == PASCAL[0] and asked[999] == PASCAL[999 - 692]


def test_hsnet_draws_cocos_classes_evenly() -> None:
    asked = episodes(COCO, rule="hsnet", by_class=True, seed=3)
    counts = Counter(name for _, name in asked)
    # Uniform over two classes: 500 each, within four standard deviations.
    assert len(asked) == 1000 and abs(counts["fox"] - 500) < 64 and set(asked) <= set(COCO)
    assert {scene for scene, name in asked if name == "fox"} == {0, 1, 2}
    assert asked == episodes(COCO, rule="hsnet", by_class=True, seed=3) != episodes(COCO, rule="hsnet", by_class=True)


def test_authors_take_the_first_thousand() -> None:
    assert episodes(PASCAL, rule="authors") == PASCAL
    assert episodes(COCO[3:], rule="authors") == COCO[3:1003]
    asked = episodes(COCO, rule="authors", by_class=True)
    assert [scene for scene, _ in asked[:7]] == [0, 0, 1, 1, 2, 2, 3] and len(asked) == 1000
