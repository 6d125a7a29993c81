"""Predicted area against loops over pixels, and costs against a count by hand."""

import numpy as np
import pytest
import torch

from fusionerlib.config import RunConfig
from fusionerlib.models import build
from studies.cost_aggregation.generalisation import PredictedArea
from studies.cost_aggregation.study import CostAggregationStudy
from studies.cost_aggregation.tables import compared_costs, training_cost


def test_painted_is_the_mean_share_over_images_and_absent_names() -> None:
    rng = np.random.default_rng(0)
    painted, shares = PredictedArea({"cat": "novel", "dog": "seen", "cow": "seen"}), {"novel": [], "seen": []}
    for names in (("cat", "dog"), ("cow",), ("dog", "cow")):
        maps = rng.random((len(names), 7, 9)).astype(np.float32)
        painted.add(names, maps)
        for name, map in zip(names, maps, strict=True):
            shares["novel" if name == "cat" else "seen"].append(np.mean(map >= 0.7))
    assert painted.share(0.7) == {kind: pytest.approx(np.mean(found)) for kind, found in shares.items()}


def test_a_full_probability_counts() -> None:
    painted = PredictedArea({"cat": "novel"})
    painted.add(["cat"], np.ones((1, 2, 2), dtype=np.float32))
    assert painted.share(1.0) == {"novel": 1.0} and painted.share(0.0) == {"novel": 1.0}


def test_the_cost_of_a_training_image_is_what_its_layers_multiply() -> None:
    run = RunConfig.flat(
        **{
            "preset": "modern",
            "recipe": "modern",
            "visual_tokens": "class_posteriors",
            "text_tokens": "class_posteriors",
        },
        **{"size": 64, "positives": 1, "negatives": 1, "examples": False},
    )
    cost = training_cost(run, visual_width=30, text_width=10)
    coarse, fine, names = 4 * 4, 8 * 8, 2
    # The 16 guidance channels are convolved once for all names; the last convolution makes 4 x 24 channels of 48.
    of_names = names * coarse * 9 * (4 * 48 + 48 * 48 + 48 * 4 * 24) + names * fine * 24
    forward = of_names + coarse * 9 * 16 * 48 + coarse * 20 * 16
    # Backward: by weights and by inputs, but for the first layers, whose inputs are frozen tokens.
    backward = 2 * forward - coarse * 20 * 16 - names * coarse * 9 * 4 * 48
    products = 2 * (forward + backward)
    # The products of the similarities come on top, forward only.
    assert products <= cost["flops"] <= products * 1.05
    model = build(run.fusion, visual_width=30, text_width=10)
    assert cost["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_modern_costs_less_than_a_tenth_of_the_papers_module() -> None:
    torch.manual_seed(0)
    modern, paper = compared_costs(CostAggregationStudy())
    assert modern["GFLOPs"] < paper["GFLOPs"] / 10 and modern["parameters"] < paper["parameters"]
    assert modern["% of the paper's"] == pytest.approx(100 * modern["GFLOPs"] / paper["GFLOPs"], abs=0.01)
    assert paper["names"] == 1
