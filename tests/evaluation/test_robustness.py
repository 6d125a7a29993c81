"""Robustness curves of a model that is known by hand, and what is drawn of them."""

import json

import numpy as np
import pytest

from fusionerlib.datasets.mosaics import Mosaics
from fusionerlib.datasets.scene import Scene
from fusionerlib.encoders.registry import load_text, load_visual
from fusionerlib.errors import FusionerError
from fusionerlib.evaluation.mosaics import curve_figures, robustness_curves
from fusionerlib.features.store import FeatureStore
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.plots.metrics import kind_bars, robustness
from tests.evaluation.test_scoring import NAMES, Favourite


class Full:
    """One-object scenes whose whole area is the object."""

    fingerprint = "full"

    def __len__(self) -> int:
        return len(NAMES)

    def names(self, index: int) -> tuple[str, ...]:
        return (NAMES[index],)

    def __getitem__(self, index: int) -> Scene:
        image = np.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        return Scene(image=image, labels=np.ones((40, 40), dtype=np.uint8), names=self.names(index), key=str(index))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    store = FeatureStore(tmp_path_factory.mktemp("store"), encoder=load_visual("packaged"))
    text_cache = TextEmbeddingCache(encoder=load_text("packaged"), templates=["{}"])
    return robustness_curves(
        Favourite(text_cache, "red box"),
        Mosaics(Full(), [(0, 1, 2, 3), (2, 0, 3, 1)], size=64),
        text_cache,
        features=lambda scenes, description: store.add(scenes, description=description, quiet=True),
        vocabulary=[*NAMES, *(f"thing {k}" for k in range(8)), "box"],
        quiet=True,
    )


def test_every_curve_begins_clean_and_has_its_levels(rows) -> None:
    levels = {
        curve: [row["level"] for row in rows if row["curve"] == curve] for curve in {row["curve"] for row in rows}
    }
    assert levels == {
        "tile size": [32, 24, 16, 12, 8],
        "blur": [0, 1, 2, 4, 8],
        "noise": [0, 10, 20, 40, 80],
        "JPEG": [100, 50, 20, 10, 5],
        # "box" is part of the names that are there, so eight names are left.
        "distractors": [0, 1, 5],
    }
    firsts = [row for place, row in enumerate(rows) if not place or rows[place - 1]["curve"] != row["curve"]]
    assert [row for row in rows if row["clean"]] == firsts
    assert len({(row["miou"], row["assignment"], row["chance"]) for row in firsts}) == 1
    assert {row["mosaics"] for row in rows} == {2}


def test_the_figures_are_those_of_a_model_that_paints_everything(rows) -> None:
    for row in rows:
        # It paints the whole canvas with one of four names, whose tile is the only thing it gets right.
        tile = row["level"] if row["curve"] == "tile size" else 32
        assert row["miou"] == pytest.approx(tile * tile / (64 * 64) / 4)
        assert row["assignment"] == 0.25
        more = row["level"] if row["curve"] == "distractors" else 0
        assert row["chance"] == pytest.approx(1 / (4 + more))


def test_what_metrics_json_gets(rows) -> None:
    figures = json.loads(json.dumps(curve_figures(rows)))
    assert list(figures) == ["tile size", "blur", "noise", "JPEG", "distractors"]
    small = figures["tile size"]
    assert small["levels"] == [32, 24, 16, 12, 8] and len(small["mious"]) == len(small["assignments"]) == 5
    assert (
        small["hardest"] == 8 and small["miou_clean"] == small["mious"][0] > small["miou_hardest"] == small["mious"][-1]
    )


def test_one_panel_a_curve(rows) -> None:
    figure = robustness(rows)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == list(curve_figures(rows))
    for axes in panels:
        own = [row for row in rows if row["curve"] == axes.get_title()]
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        assert np.allclose(lines["mIoU"], [row["miou"] for row in own])
        assert np.allclose(lines["assignment"], [row["assignment"] for row in own])
        assert axes.get_ylim() == (0, 1.05)
    jpeg = [label.get_text() for label in panels[3].get_xticklabels()]
    assert jpeg == ["none", "50", "20", "10", "5"]
    with pytest.raises(FusionerError, match="no curve to draw"):
        robustness([])


def test_bars_of_the_kinds() -> None:
    plain = {"assignment": 0.6, "miou": 0.4, "miou_permuted": 0.1, "chance": 0.25}
    figure = kind_bars({"2x2": plain, "one absent": {**plain, "absent_painted": 0.031, "orphan_painted": 0.5}})
    (axes,) = figure.axes
    lengths = [bar.get_width() for container in axes.containers for bar in container]
    assert lengths == [0.6, 0.6, 0.4, 0.4, 0.1, 0.1]
    label = axes.get_yticklabels()[1].get_text().replace("\n", " ")
    predicted = "3% of the image predicted as the absent name 50% of the orphan tile predicted as any name"
    assert label == f"one absent {predicted}"
    with pytest.raises(FusionerError, match="no kind to draw"):
        kind_bars({})
