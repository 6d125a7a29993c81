"""The comparison of encoder pairs: its table by hand, and whole studies of a few steps on made photographs."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionerlib.datasets.names import categories, held_out
from fusionerlib.datasets.pascal import fold_classes, training_images, validation_pairs
from fusionerlib.errors import FusionerError
from studies.encoder_pairs.study import Study
from studies.encoder_pairs.tables import published_gaps, summary
from studies.photo_study import rows_of, run_study
from tests.datasets.test_pascal import save_mask

# The table ------------------------------------------------------------------------------------------------------------


def row(text: str, fusion: str, fold: int, seed: int, value: float) -> dict[str, Any]:
    return {"text": text, "fusion": fusion, "fold": fold, "seed": seed, "single": value}


def test_means_and_spreads_are_those_of_a_sum_by_hand() -> None:
    early = [row("CLIP", "early", fold, seed, 0.1 * fold + 0.02 * seed) for fold in (1, 3) for seed in (0, 1)]
    late = [row("CLIP", "late", fold, seed, 0.05 * fold) for fold in (1, 3) for seed in (0, 1)]
    first, second, gap = summary(early + late, figure="single")
    assert first == pytest.approx(
        {"text": "CLIP", "fusion": "early", "fold 1": 11, "fold 3": 31, "mean": 21, "lowest": 10, "highest": 32}
        | {"spread": math.sqrt(2)}
    )
    assert (second["fusion"], second["mean"], second["spread"]) == ("late", pytest.approx(10), pytest.approx(0))
    assert gap == pytest.approx(
        {"text": "CLIP", "fusion": "early - late", "fold 1": 6, "fold 3": 16, "mean": 11, "lowest": 5, "highest": 17}
        | {"spread": math.sqrt(2)}
    )


def test_a_seed_without_all_folds_stays_out_of_the_mean() -> None:
    rows = [row("CLIP", "early", 1, 0, 0.2), row("CLIP", "early", 2, 0, 0.4), row("CLIP", "early", 1, 1, 0.9)]
    (found,) = summary(rows, figure="single")
    assert found["mean"] == pytest.approx(30) and math.isnan(found["spread"])
    assert found["fold 1"] == pytest.approx(55) and found["highest"] == pytest.approx(90)


def test_the_published_gaps_are_in_the_papers_ranges() -> None:
    gaps = {row["pair"]: row["early - late"] for row in published_gaps()}
    assert len(gaps) == 12
    assert {gap for pair, gap in gaps.items() if pair.count("CLIP") == 2} == {8.5, 8.9}
    bert = [gap for pair, gap in gaps.items() if pair.startswith("CLIP") and "BERT" in pair]
    assert (len(bert), min(bert), max(bert)) == (4, 1.9, 3.7)
    free = [gap for pair, gap in gaps.items() if pair.startswith(("DINO", "MoCo"))]
    assert (len(free), min(free), max(free)) == (6, -0.6, 1.8)


# Whole studies --------------------------------------------------------------------------------------------------------


def photo(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs of noise under listed names, with half of each labelled, and vectors of noise."""
    pytest.importorskip("pycocotools", reason="the reader of COCO's masks is in the extra `data`")
    pyarrow = pytest.importorskip("pyarrow", reason="tables of vectors are in the extra `data`")
    parquet = pytest.importorskip("pyarrow.parquet")
    root = tmp_path_factory.mktemp("photos")
    train = zip(training_images(), (*fold_classes(2), *fold_classes(3)), strict=False)
    for seed, (key, number) in enumerate([*train, *validation_pairs(2)[:6], *validation_pairs(3)[:6]]):
        photo(root / f"voc/JPEGImages/{key}.jpg", seed)
        raw = np.zeros((40, 48))
        raw[:, :24] = number
        (root / "voc/SegmentationClassAug").mkdir(exist_ok=True)
        save_mask(root / f"voc/SegmentationClassAug/{key}.png", raw)
    names = [*(entry.coco for entry in categories()), "zebra"]
    photo(root / "coco/images/1.jpg", 99)
    half = [[0, 0, 24, 0, 24, 40, 0, 40]]
    objects = [
        {"image_id": 1, "category_id": names.index(name), "segmentation": half, "iscrowd": 0}
        for name in ("zebra", "couch")
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 40, "width": 48}],
        "annotations": objects,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    (root / "coco/annotations").mkdir()
    (root / "coco/annotations/instances.json").write_text(json.dumps(content))
    vectors = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    parquet.write_table(pyarrow.table({"name": names, "vector": vectors.tolist()}), root / "vectors.parquet")
    return {"voc_root": root / "voc", "coco_root": root / "coco", "vectors": root / "vectors.parquet"}


def small(data: dict[str, Path], directory: Path, **more: Any) -> Study:
    settings = {"folds": (3,), "seeds": (0,), "steps": 2, "batch": 2, "size": 64, "least": 1, **data, **more}
    return Study.model_validate({"run_dir": str(directory), **settings})


@pytest.fixture(scope="module")
def finished(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = small(data, tmp_path_factory.mktemp("study"))
    run_study(study, quiet=True)
    return study


def test_every_run_leaves_its_figures_and_config(finished: Study) -> None:
    rows = rows_of(finished)
    assert [(row["text"], row["fusion"]) for row in rows] == [
        ("MiniLM", "early"), ("MiniLM", "late"), ("CLIP", "early"), ("CLIP", "late"),
    ]  # fmt: skip
    listed = {number for _, number in validation_pairs(3)[:6]}
    for row, variant in zip(rows, finished.trials(), strict=True):
        assert 0 <= row["single"] <= 1 and 0 <= row["multi"] <= 1
        for figure in ("single", "multi"):
            assert set(row["classes"][figure]) == {categories()[number - 1].coco for number in listed}
            assert np.nanmean(list(row["classes"][figure].values())) == pytest.approx(row[figure])
        record = json.loads(finished.record(variant).read_text())
        assert record["config"]["fusion"]["kind"] == {"early": "fusioner", "late": "late"}[row["fusion"]]
        assert record["config"]["pair"]["text"].startswith("vectors:") == (row["text"] == "CLIP")
        assert record["photos"]["pairs"] == 6
    assert not (finished.folder / "training").exists() or not list((finished.folder / "training").iterdir())


def test_all_runs_have_one_budget_and_one_template(finished: Study) -> None:
    configs = [finished.run_of(variant) for variant in finished.trials()]
    assert len({json.dumps(run.training.model_dump(mode="json")) for run in configs}) == 1
    assert len({run.pair.templates for run in configs}) == 1
    assert Path(configs[0].pair.templates).read_text() == "a {}\n"
    early, late = (row["parameters"] for row in rows_of(finished)[:2])
    assert abs(early - late) < 0.01 * early


def test_only_what_has_no_record_runs_again(finished: Study) -> None:
    records = [finished.record(variant) for variant in finished.trials()]
    before, rows = [file.stat().st_mtime_ns for file in records], rows_of(finished)
    figures = {"single", "multi", "loss", "classes"}
    records[2].unlink()
    again = run_study(finished, quiet=True)
    after = [file.stat().st_mtime_ns for file in records]
    assert [new == old for new, old in zip(after, before, strict=True)] == [True, True, False, True]
    # A run is decided by its config: once more gives the same figures.
    assert [{k: row[k] for k in figures} for row in again] == [{k: row[k] for k in figures} for row in rows]


@pytest.mark.parametrize(("change", "told"), [({"steps": 3}, "training.steps was 2, is 3"), ({"least": 2}, "least")])
def test_records_of_another_study_are_refused(finished: Study, change: dict[str, int], told: str) -> None:
    with pytest.raises(FusionerError, match=f"of another study .*{told}"):
        run_study(finished.model_copy(update=change), quiet=True)


def test_records_may_move_with_their_folder(finished: Study, tmp_path: Path) -> None:
    (tmp_path / "encoder_pairs").mkdir()
    (tmp_path / "encoder_pairs/runs").symlink_to(finished.folder / "runs")
    assert run_study(finished.model_copy(update={"run_dir": str(tmp_path)}), quiet=True) == rows_of(finished)


def test_no_run_trains_on_a_held_out_name(finished: Study) -> None:
    from fusionerlib.datasets.scene import vocabulary
    from fusionerlib.datasets.sets import load_datasets

    names = set(vocabulary(load_datasets(finished.run_of(finished.trials()[0]).data).train))
    assert "zebra" in names and not names & held_out(3)


def test_a_fold_without_enough_pairs_is_refused(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FusionerError, match=r"no class of fold 3 has 99 pairs .*leave the fold out"):
        run_study(small(data, tmp_path, least=99), quiet=True)


def test_missing_data_is_told_at_once(data: dict[str, Path], tmp_path: Path) -> None:
    study = small({**data, "vectors": tmp_path / "none.parquet", "coco_root": tmp_path / "coco"}, tmp_path / "study")
    with pytest.raises(FusionerError, match=r"COCO \(.*coco\).*; the text vectors \(.*none\.parquet\)"):
        run_study(study, quiet=True)
    assert not (tmp_path / "study").exists()
