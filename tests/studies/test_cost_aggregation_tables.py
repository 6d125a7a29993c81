"""The study's tables from records written by hand, and which trainings a study asks for."""

import math

import pytest

from fusionerlib.config import checked
from fusionerlib.errors import FusionerError
from studies.cost_aggregation.study import BASE, CONTROLS, SETTINGS, VARIANTS, CostAggregationStudy, Trial
from studies.cost_aggregation.tables import by_class, by_seed, by_threshold, summary


def row(setting, fold, seed, one, both, *, steps=600):
    at = {"0.4": {"one": {"cat": 1.0}, "absent": {}, "all": {}, "painted": {"novel": 0.5, "seen": 0.25}}}
    return {
        **{"setting": setting, "fold": fold, "seed": seed, "steps": steps},
        **{"one": one, "absent": {}, "all": both, "perfect": both, "triple": {"harmonic": 0.2}},
        **{"painted": {"novel": 0.02, "seen": 0.01}, "parameters": 7, "at": at},
    }


ROWS = [
    row(BASE, 1, 0, {"cat": 0.8, "cow": 0.6}, {"cat": 0.5, "cow": 0.3}),
    row(BASE, 2, 0, {"dog": 0.1}, {"dog": 0.1}),
    row(BASE, 1, 1, {"cat": 0.6, "cow": 0.4}, {"cat": 0.3, "cow": 0.1}),
    row(BASE, 2, 1, {"dog": 0.2}, {"dog": 0.2}),
    row("two views", 1, 1, {"cat": 0.9, "cow": 0.4}, {"cat": 0.3, "cow": 0.1}),
    row("two views", 2, 1, {"dog": 0.2}, {"dog": 0.5}),
    row("two views", 1, 0, {"cat": 0.0, "cow": 0.0}, {"cat": 0.0, "cow": 0.0}),
]


def test_a_seeds_figures_are_means_over_classes_not_over_folds() -> None:
    found = by_seed(ROWS, BASE)
    assert found[0]["one"] == pytest.approx(100 * (0.8 + 0.6 + 0.1) / 3)
    assert found[1]["all"] == pytest.approx(100 * (0.3 + 0.1 + 0.2) / 3)
    assert found[0]["painted novel"] == pytest.approx(2) and found[0]["harmonic"] == 20
    assert list(by_seed(ROWS, "two views")) == [1], "a seed without all folds is no result"


def test_gains_are_over_the_same_seeds() -> None:
    base, views = summary(ROWS)
    assert base["seeds"] == 2 and base["one gain"] == 0
    assert base["one spread"] == pytest.approx(abs(50 - 40) / math.sqrt(2))
    assert views["one gain"] == pytest.approx(100 * (0.9 + 0.4 + 0.2 - 0.6 - 0.4 - 0.2) / 3)
    assert views["all gain"] == pytest.approx(100 * 0.3 / 3) and math.isnan(views["one spread"])


def test_by_class_and_by_threshold() -> None:
    assert by_class(ROWS, BASE, "one") == {
        name: pytest.approx(v) for name, v in {"cat": 70, "cow": 50, "dog": 15}.items()
    }
    (level,) = by_threshold(ROWS, BASE)
    assert level["threshold"] == "0.4" and level["one"] == 100 and math.isnan(level["absent"])
    assert level["painted novel"] == 50 and level["painted seen"] == 25


def test_a_study_trains_modern_long_beside_controls_and_short_beside_variants(tmp_path) -> None:
    study = CostAggregationStudy(
        run_dir=str(tmp_path), folds=(2, 3), seeds=(0, 1), settings=("class-agnostic", "two views")
    )
    trials = study.trials()
    long = {(BASE, fold, seed, 600) for fold in (2, 3) for seed in (0, 1)}
    long |= {("class-agnostic", fold, 0, 600) for fold in (2, 3)}
    short = {(BASE, fold, seed, 150) for fold in (2, 3) for seed in (0, 1)}
    short |= {("two views", fold, 0, 150) for fold in (2, 3)}
    assert {(t.setting, t.fold, t.seed, t.steps) for t in trials} == long | short and len(trials) == 12
    assert len({study.record(trial) for trial in trials}) == 12
    assert study.main(ROWS) == ROWS[:4] and study.short(ROWS) == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_a_run_that_differs(setting, tmp_path) -> None:
    study = CostAggregationStudy(run_dir=str(tmp_path))
    run, base = study.run_of(Trial(setting, 1, 0, 150)), study.run_of(Trial(BASE, 1, 0, 150))
    assert run.training.feed == "stored" and run.training.epochs == 0
    assert (run != base) == (setting != BASE)
    assert run.training.steps * run.training.batch in (1800, 1792), "as many images are seen"
    assert set(SETTINGS) == {BASE, *CONTROLS, *VARIANTS}


def test_bad_studies_are_told(tmp_path) -> None:
    with pytest.raises(FusionerError, match="no setting 'two view'"):
        checked(CostAggregationStudy, {"run_dir": str(tmp_path), "settings": ["two view"]})
    with pytest.raises(FusionerError, match=r"PASCAL VOC .*none.*; COCO .*; the text vectors"):
        CostAggregationStudy(
            voc_root=tmp_path / "none", coco_root=tmp_path / "c", vectors=tmp_path / "v.parquet"
        ).require_data()
