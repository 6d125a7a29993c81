"""Configs are exact: presets fill in, flat names find their section, and what does not fit is named."""

import pytest
from pydantic import ValidationError

from fusionerlib.config import FusionConfig, RunConfig, TrainingConfig
from fusionerlib.errors import FusionerError
from fusionerlib.studies.ablation import varied


def test_defaults_are_the_papers_table() -> None:
    fusion = FusionConfig()
    assert (fusion.width, fusion.depth, fusion.heads, fusion.mlp_ratio) == (512, 12, 8, 4)
    assert (fusion.dropout, fusion.temperature, fusion.decoder_scales, fusion.upsample) == (
        0.0,
        0.07,
        (2, 4, 8),
        "features",
    )
    paper = TrainingConfig(recipe="bmvc2022")
    assert (paper.batch, paper.positives, paper.negatives, paper.loss, paper.loss_stride) == (32, 1, 0, "bce", 1)
    assert (paper.weight_decay, paper.final_weight_decay, paper.lr, paper.final_lr) == (0.01, 0.4, 1e-3, 2e-6)


def test_a_preset_fills_in_and_what_is_given_wins() -> None:
    run = RunConfig.flat(depth=5, steps=7)
    assert (run.fusion.preset, run.fusion.width, run.fusion.depth, run.training.steps) == ("small", 192, 5, 7)
    assert RunConfig.flat(preset="bmvc2022").fusion.width == 512


def test_a_config_comes_back_from_its_json() -> None:
    run = RunConfig.flat(depth=3, lr="1e-4", root="somewhere", recipe="bmvc2022", batch=8)
    assert RunConfig.model_validate_json(run.model_dump_json()) == run
    assert run.training.lr == 1e-4 and run.training.batch == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stpes": 3}, r"unknown parameter 'stpes' = 3: did you mean 'steps'\?"),
        ({"steps": "many"}, r"training\.steps = 'many'"),
        ({"size": 100}, r"data\.size = 100.*multiple of 32"),
        ({"width": 100, "heads": 3}, r"width 100 must be a multiple of heads 3"),
        ({"fold": 4}, r"data\.fold = 4"),
        ({"feed": "live"}, r"training\.feed = 'live'"),
        ({"workers": -1}, r"training\.workers = -1"),
        ({"kind": "middle"}, r"fusion\.kind = 'middle'"),
        ({"preset": "modern"}, r"tokens 'joined' and 'mean': for the packaged pair set visual_tokens = 'classes' and"),
        (
            {"preset": "modern", "visual_tokens": "classes", "text_tokens": "classes", "text_noise": 0.1},
            r"text_noise 0\.1 would make .* set text_noise = 0",
        ),
        ({"preset": "modern", "text": "bert-base"}, r"for another set likeness = 'learned'"),
    ],
)
def test_what_does_not_fit_is_named(values: dict, message: str) -> None:
    with pytest.raises(FusionerError, match=message):
        RunConfig.flat(**values)


def test_configs_do_not_change() -> None:
    with pytest.raises(ValidationError):
        RunConfig().training.steps = 3


def test_a_variant_changes_only_what_it_names() -> None:
    run = RunConfig.flat(depth=3)
    other = varied(run, {"depth": 1, "templates": "few"})
    assert other == RunConfig.flat(depth=1, templates="few")
    assert varied(run, {}) == run
    with pytest.raises(FusionerError, match=r"fusion\.depth = 0"):
        varied(run, {"depth": 0})
