"""A checkpoint measured: every figure against one taken by hand from the model's own answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import RunConfig
from fusionerlib.datasets.pascal import NAMES
from fusionerlib.datasets.sets import Benchmark
from fusionerlib.evaluation.evaluator import Evaluator, calibrated_rows, metrics_rows, published_table
from fusionerlib.evaluation.queries import Query
from fusionerlib.features.context import RunContext
from fusionerlib.inference.segmenter import Segmenter
from fusionerlib.models import build
from tests.datasets.test_pascal import BOTH, DOG, OTHER_VAL, VAL, save_mask, stripes

MASKS = {VAL: stripes(9, 15), OTHER_VAL: stripes(10, 0), DOG: stripes(12, 0), BOTH: stripes(5, 15)}


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """An untrained model of fold 1: chair and cow are unseen, dog, bottle and person train."""
    root = tmp_path_factory.mktemp("voc")
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).mkdir()
    for key, small in MASKS.items():
        raw = np.kron(small, np.ones((8, 8), dtype=np.uint8))
        photo = np.random.default_rng(0).integers(0, 255, (*raw.shape, 3), dtype=np.uint8)
        Image.fromarray(photo).save(root / "JPEGImages" / f"{key}.jpg")
        save_mask(root / "SegmentationClassAug" / f"{key}.png", raw)
    values = {"dataset": "pascal", "root": root, "fold": 1, "size": 64, "features": root / "features"}
    run = RunConfig.flat(preset="small", **values, width=24, heads=2, depth=1, logit_bias=0.0)
    torch.manual_seed(1)
    model = build(run.fusion, visual_width=432, text_width=384).eval()
    return Evaluator(RunContext(run), Checkpoint(model=model, run=run, trained_names=("bottle", "dog", "person")))


def test_single_names_and_all_at_once_are_what_the_segmenter_answers(evaluator: Evaluator) -> None:
    benchmarks = evaluator.benchmarks()
    found = evaluator(benchmarks["novel"])
    assert [(query.scene, query.names) for query in found.queries] == [(0, ("chair",)), (1, ("cow",))]
    together = evaluator(benchmarks["all"])
    assert [query.names for query in together.queries] == [NAMES, NAMES]
    segmenter = Segmenter(
        model=evaluator.checkpoint.model,
        visual=evaluator.context.visual,
        text_cache=evaluator.context.text_cache,
        size=64,
    )
    scene = benchmarks["all"].scenes[1]
    answer = segmenter.set_image(scene.image).segment(NAMES)
    one = next(evaluator.predictions(benchmarks["all"], together.queries[1:]))
    np.testing.assert_allclose(one[1], answer.probabilities, atol=2e-3)  # features are stored in half precision
    cow = answer.masks[NAMES.index("cow")]
    expected = (cow & scene.mask("cow")).sum() / (cow | scene.mask("cow")).sum()
    assert together.iou["cow"] == pytest.approx(expected, abs=0.02)
    assert together.table.miou(0.5) == pytest.approx(together.counts.miou)


def test_a_benchmark_says_how_it_is_asked(evaluator: Evaluator) -> None:
    scenes = evaluator.context.sets.train
    assert [scenes.names(index) for index in range(len(scenes))] == [("bottle", "person"), ("dog",)]
    pairs = Benchmark(scenes, pairs=[(1, "dog"), (0, "person")])
    assert evaluator.queries(pairs) == [Query(1, ("dog",)), Query(0, ("person",))]
    together = Benchmark(scenes, names=("cow", "dog"))
    assert evaluator.queries(together) == [Query(0, ("cow", "dog")), Query(1, ("cow", "dog"))]
    # With neither: its own names, and look-alikes beside.
    asked = [set(query.names) for query in replace(evaluator, names_asked=2).queries(Benchmark(scenes))]
    assert asked[0] == {"bottle", "person"} and "dog" in asked[1] and len(asked[1]) == 2
    asked = [set(query.names) for query in replace(evaluator, names_asked=3).queries(Benchmark(scenes))]
    assert asked == [{"bottle", "dog", "person"}] * 2


def test_the_absent_control_asks_what_is_not_there_and_scores_what_is(evaluator: Evaluator) -> None:
    everything = evaluator.benchmarks()["all"]
    found = evaluator.absent_prompts(everything, names=("chair", "cow"))
    assert [query.scored_as for query in found.queries] == [("chair",), ("cow",)]
    for query in found.queries:
        assert query.names[0] in NAMES and query.names[0] not in everything.scenes.names(query.scene)
    assert set(found.iou) == {"chair", "cow"}
    _, one, target = next(evaluator.predictions(everything, found.queries[:1]))
    mask = one[0] > 0.5
    expected = (mask & (target == 1)).sum() / (mask | (target == 1)).sum()
    assert found.iou["chair"] == pytest.approx(expected) and (target == 1).sum() > 500


def test_the_rows_name_every_protocol(evaluator: Evaluator) -> None:
    benchmarks = evaluator.benchmarks()
    results = {name: evaluator(benchmark) for name, benchmark in benchmarks.items()}
    rows = metrics_rows(evaluator, benchmarks, results)
    assert list(rows) == ["novel_classes", "all_classes", "novel_classes_absent"]
    assert rows["novel_classes"]["episodes"] == "all" and rows["novel_classes"]["inference"] == "whole"
    iou = results["all"].iou
    assert set(iou) == {"chair", "person", "cow"}
    assert rows["all_classes"]["seen"] == pytest.approx(iou["person"])
    assert rows["all_classes"]["unseen"] == pytest.approx((iou["chair"] + iou["cow"]) / 2)
    assert published_table(evaluator) == "pascal-5i" and published_table(evaluator, other="coco") == ""
    chosen, calibrated = calibrated_rows(evaluator, benchmarks, results, scenes=2)
    assert list(chosen) == ["novel", "all"] and list(calibrated) == [f"{k}_classes_calibrated" for k in chosen]
    assert calibrated["novel_classes_calibrated"]["miou"] == pytest.approx(results["novel"].table.miou(chosen["novel"]))
    assert calibrated_rows(evaluator, benchmarks, results, scenes=0) == ({}, {})


def test_calibration_asks_for_training_names_on_training_images_alone(evaluator: Evaluator) -> None:
    benchmarks = evaluator.benchmarks()
    single, together = (evaluator.calibration_table(benchmarks[name], scenes=9) for name in ("novel", "all"))
    assert set(single.names) == set(together.names) == {"bottle", "dog", "person"}
    assert single.confusion(0.0).sum() == 3 * 64 * 64, "the dog's image once, the other one for each of its two names"
    assert together.confusion(0.0).sum() == 2 * 64 * 64


def test_sliding_windows_answer_at_the_images_own_size(evaluator: Evaluator) -> None:
    sliding = Evaluator(evaluator.context, evaluator.checkpoint, inference="sliding")
    benchmark = sliding.benchmarks()["novel"]
    found = sliding(benchmark)
    assert found.table.confusion(0.5).sum() == 2 * 96 * 80
    assert sliding.scenes(benchmark)[0].image.shape == (96, 80, 3)
