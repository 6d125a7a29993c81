"""Mosaics: who wins a tile against a count by hand, controls, absent names, and borders, on models known by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionerlib.datasets.scene import Scene
from fusionerlib.datasets.transforms import Bordered
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.mosaics import evaluate_mosaics, tiles_won
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from tests.evaluation.test_scoring import NAMES, Favourite


@pytest.fixture(scope="module")
def text_cache():
    return TextEmbeddingCache(encoder=load_text("packaged"), templates=["{}"])


class Tiles:
    """Mosaics of four flat tiles, whose whole area is the object but for the upper left pixels, which are ignored."""

    def __init__(self, *, side: int = 32, ignored: int = 0) -> None:
        self.side, self.ignored, self.fingerprint = side, ignored, f"tiles {side} {ignored}"

    def __len__(self) -> int:
        return 3

    def names(self, index: int) -> tuple[str, ...]:
        return tuple(NAMES[index:] + NAMES[:index])

    def __getitem__(self, index: int) -> Scene:
        labels = np.repeat(np.repeat(np.array([[1, 2], [3, 4]], dtype=np.uint8), self.side, 0), self.side, 1)
        labels[: self.ignored, : self.ignored] = 255
        image = np.full((*labels.shape, 3), index * 20, dtype=np.uint8)
        return Scene(image=image, labels=labels, names=self.names(index), key=str(index))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(tmp_path_factory.mktemp("store"), encoder=load_visual("packaged"))


def test_mosaics_of_a_model_that_knows_one_name(store, text_cache) -> None:
    result = evaluate_mosaics(Favourite(text_cache, "red box"), store.add(Tiles(), quiet=True), text_cache, quiet=True)
    # The favourite wins its own tile and loses the three others; its mask covers all four tiles.
    figures = result.figures()
    assert (figures["scenes"], figures["assignment"], figures["fb_iou"]) == (3, 0.25, 1.0)
    assert figures["miou"] == pytest.approx(0.25 / 4) and figures["miou_object_only"] == pytest.approx(0.25)
    permuted = {row["name"]: row["iou"] for row in result.counts_permuted.table()}
    assert permuted["red box"] == 0 and max(permuted.values()) > 0
    assert set(result.kind_figures()) == {*figures, "chance"} and result.chance == 0.25


def asked_without(gone: str, *more: str) -> list[tuple[str, ...]]:
    return [(*(name for name in NAMES if name != gone), *more) for _ in range(3)]


def test_a_name_that_is_not_there_takes_everything(store, text_cache) -> None:
    stored = store.add(Tiles(ignored=8), quiet=True)
    absent = evaluate_mosaics(
        Favourite(text_cache, "a dog"), stored, text_cache, asked=asked_without("red box", "a dog"), quiet=True
    )
    figures = absent.kind_figures()
    assert (figures["absent_painted"], figures["orphan_painted"], figures["chance"]) == (1.0, 1.0, 0.25)
    # The three that are there lose their tiles and all their pixels.
    assert figures["assignment"] == 0 and figures["miou"] == 0
    assert {row["name"] for row in absent.counts.table()} == set(NAMES) - {"red box"}


def test_a_name_that_is_there_takes_the_orphan_too(store, text_cache) -> None:
    stored = store.add(Tiles(ignored=8), quiet=True)
    present = evaluate_mosaics(
        Favourite(text_cache, "blue box"), stored, text_cache, asked=asked_without("red box", "a dog"), quiet=True
    )
    figures = present.kind_figures()
    assert (figures["absent_painted"], figures["orphan_painted"]) == (0.0, 1.0)
    # One of three tiles with a name is won; the orphan, which nobody was asked for, is in no share.
    assert figures["assignment"] == pytest.approx(1 / 3)
    valid = 3 * (64 * 64 - 64)
    own = sum((32 * 32 - (64 if Tiles().names(index)[0] == "blue box" else 0)) for index in range(3))
    by_name = {row["name"]: row["iou"] for row in present.counts.table()}
    assert by_name["blue box"] == pytest.approx(own / valid) and by_name["green box"] == 0


def test_distractors_compete_for_the_tiles(store, text_cache) -> None:
    stored = store.add(Tiles(), quiet=True)
    asked = [(*NAMES, "a dog", "a cat", "a tree", "a house") for _ in range(3)]
    for favourite, expected, painted in (("a cat", 0.0, 1.0), ("red box", 0.25, 0.0)):
        result = evaluate_mosaics(Favourite(text_cache, favourite), stored, text_cache, asked=asked, quiet=True)
        assert (result.assignment, result.absent_area, result.chance) == (expected, painted, 0.125)
        assert set(NAMES) == {row["name"] for row in result.counts.table()}
        assert np.isnan(result.orphan_area) and "orphan_painted" not in result.kind_figures()


def test_a_mosaic_in_the_middle_of_a_border(store, text_cache) -> None:
    stored = store.add(Bordered(Tiles(side=13), size=64), quiet=True)
    result = evaluate_mosaics(Favourite(text_cache, "red box"), stored, text_cache, tile=13, quiet=True)
    assert result.assignment == 0.25
    by_name = {row["name"]: row["iou"] for row in result.counts.table()}
    assert by_name["red box"] == pytest.approx(13 * 13 / (64 * 64))


def test_each_mosaic_is_asked_once(store, text_cache) -> None:
    stored = store.add(Tiles(), quiet=True)
    with pytest.raises(FusionerError, match="2 lists of names for 3 mosaics"):
        evaluate_mosaics(Favourite(text_cache, "red box"), stored, text_cache, asked=[tuple(NAMES)] * 2, quiet=True)


@settings(max_examples=60, deadline=None)
@given(grid=st.integers(1, 3), side=st.integers(1, 4), more=st.integers(0, 3), seed=st.integers(0, 10**6))
def test_winners_are_those_of_a_count_by_hand(grid: int, side: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = grid * grid
    # Few different values, so that there are ties.
    maps = rng.integers(0, 3, (tiles + more, grid * side, grid * side)).astype(np.float32) / 2
    own = [int(place) for place in rng.permutation(tiles + more)[:tiles]]
    expected = []
    for tile, name in enumerate(own):
        row, column = divmod(tile, grid)
        sums = [0.0] * len(maps)
        for k in range(len(maps)):
            for y in range(row * side, (row + 1) * side):
                for x in range(column * side, (column + 1) * side):
                    sums[k] += float(maps[k, y, x])
        expected.append(all(sums[name] > other for k, other in enumerate(sums) if k != name))
    assert tiles_won(maps, grid=grid, own=own) == expected
    bordered = np.pad(maps, ((0, 0), (3, 4), (2, 2)), constant_values=9.0)
    assert tiles_won(bordered, grid=grid, own=own, tile=side) == expected
    without = [None, *own[1:]]
    assert tiles_won(maps, grid=grid, own=without) == [None, *expected[1:]]


def test_tiles_that_do_not_fit_are_refused() -> None:
    maps = np.zeros((4, 63, 63), dtype=np.float32)
    for own in ([0, 1, 2, 3], [0, 1, 2]):
        with pytest.raises(FusionerError, match="no 2x2 equal tiles"):
            tiles_won(maps, grid=2, own=own)
