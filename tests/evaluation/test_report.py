"""The record of scores: strict JSON, and the same figures in the table, the page and the Parquet file."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusionerlib import FusionerError
from fusionerlib.evaluation import report
from fusionerlib.evaluation.scores import ImageCounts, Scores
from tests.conftest import requests_of
from tests.evaluation.test_scores import blank, simulated


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def with_an_absent_class(scores: Scores) -> Scores:
    """``scores`` whose last name no image shows and none is predicted as."""
    shown = scores.shown.copy()
    shown[:, -1] = False
    counts = scores.all_classes
    kept = [np.where(shown, part, 0) for part in (counts.intersections, counts.unions)]
    return replace(scores, shown=shown, all_classes=ImageCounts(*kept), trained_names=("name 0",))


def two_models() -> dict[str, Scores]:
    rng = np.random.default_rng(6)
    truths = {"first": [0.2, 0.5, 0.5], "second": [0.9, 0.5, 0.5]}
    return {name: with_an_absent_class(simulated(rng, 30, np.array(truth))) for name, truth in truths.items()}


@pytest.fixture(scope="module")
def models() -> dict[str, Scores]:
    return two_models()


def test_json_is_strict_with_absent_classes_single_images_and_unknown_training(models: dict[str, Scores]) -> None:
    one = {"one": blank(1, ("cat",))}
    for scores in (models, one):
        text = report.json_text(report.record(scores, about={"data": "here", "threshold": float("nan")}))
        read = json.loads(text, parse_constant=no_constant)
        assert read["about"]["threshold"] is None
    assert read["models"][0]["figures"]["miou"] == {"value": None, "low": None, "high": None}
    assert read["models"][0]["names_of_training"] is None
    read = json.loads(report.json_text(report.record(models, about={})), parse_constant=no_constant)
    assert [row["iou"] is None for row in read["models"][0]["classes"]] == [False, False, True]
    assert read["models"][0]["names_of_training"] == 1 and read["models"][0]["unseen"] == ["name 1", "name 2"]


def test_the_better_of_two_models_is_named_with_the_names_it_wins(models: dict[str, Scores]) -> None:
    found = report.record(models, about={"data": "here"})
    (compared,) = found["comparisons"]
    assert compared["figures"]["miou"]["better"] == "other"
    assert report.verdict(compared) == "second has the better mIoU; names won: second 1, first 0, undecided 1"
    text = report.terminal_text(found)
    value = found["models"][0]["figures"]["miou"]["value"]
    assert f"{100 * value:.1f}" in text and "training saw 1 of these 3 names" in text
    assert "second minus first" in text and max(map(len, text.splitlines())) <= 120


def test_intervals_over_few_images_come_with_a_caution() -> None:
    rng = np.random.default_rng(6)
    for images, told in ((9, True), (10, False)):
        found = report.record({"one": simulated(rng, images, np.array([0.5, 0.6]))}, about={"data": "here"})
        for text in (report.terminal_text(found), report.page_text(found)):
            assert ("fewer than 10 images" in " ".join(text.split())) == told, images


def test_figures_over_different_names_are_not_compared(models: dict[str, Scores]) -> None:
    other = {"first": models["first"], "second": replace(models["second"], trained_names=("name 0", "name 1"))}
    (compared,) = report.record(other, about={})["comparisons"]
    assert compared["figures"]["seen"] == {"difference": None, "low": None, "high": None, "better": ""}
    assert compared["figures"]["miou"]["difference"] > 0
    (compared,) = report.record(models, about={})["comparisons"]
    assert compared["figures"]["seen"]["difference"] == pytest.approx(0.7, abs=0.15)


def test_labels_are_short_where_that_is_clear(models: dict[str, Scores]) -> None:
    for checkpoints, labels in (
        (["packaged", "/home/me/outputs/mine/checkpoint"], ["packaged", "mine"]),
        (["a/mine/checkpoint", "b/mine/checkpoint"], ["a/mine/checkpoint", "b/mine/checkpoint"]),
    ):
        renamed = dict(zip(checkpoints, models.values(), strict=True))
        found = report.record(renamed, about={"data": "here"})["models"]
        assert [model["label"] for model in found] == labels
        assert [model["checkpoint"] for model in found] == checkpoints


def test_the_counts_of_every_image_give_the_figures_again(models: dict[str, Scores], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    found = report.record(models, about={"data": "here"})
    files = report.write(tmp_path, models, found)
    assert [file.name for file in files] == ["scores.json", "scores.html", "scores.parquet"]
    table = pandas.read_parquet(files[2])
    table = table[(table.checkpoint == "second") & table.shown]
    sums = table.groupby("name")[["all_classes_intersection", "all_classes_union"]].sum()
    miou = (sums.all_classes_intersection / sums.all_classes_union).mean()
    assert miou == pytest.approx(found["models"][1]["figures"]["miou"]["value"])


def test_without_pyarrow_the_counts_are_csv(
    models: dict[str, Scores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "pyarrow" else find_spec(name))
    counts = report.write(tmp_path, models, report.record(models, about={"data": "here"}))[2]
    header, *rows = counts.read_text().splitlines()
    assert counts.name == "scores.csv" and header.startswith("checkpoint,image,name,shown,all_classes_intersection")
    assert len(rows) == 2 * 30 * 2


def test_without_jinja2_the_page_names_the_extra(models: dict[str, Scores], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(FusionerError, match="fusioner\\[workbook\\]"):
        report.page_text(report.record(models, about={"data": "here"}))


def test_the_page_shows_the_names_as_text_and_asks_for_nothing(tmp_path: Path, browser: Any) -> None:
    name = "<script>alert(1)</script>"
    first, second = (
        replace(scores, names=(name, *scores.names[1:]), trained_names=()) for scores in two_models().values()
    )
    models = {name: first, "second": second}
    page = tmp_path / "scores.html"
    page.write_text(report.page_text(report.record(models, about={"data": "here", "split": "val"})), encoding="utf-8")
    assert "<script" not in page.read_text()
    assert requests_of(browser, page) == []
