"""Which pairs may be compared, which tokens make them comparable, and the errors of runs that do not fit."""

import pytest

from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.errors import FusionerError
from fusionerlib.features.alignment import aligned_tokens, in_one_space
from fusionerlib.features.context import RunContext


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ({}, "set visual_tokens = 'conse' and text_tokens = 'mean'"),
        ({"visual_tokens": "conse", "text_tokens": "class_posteriors"}, "set visual_tokens = 'conse'"),
        # Of one width, and in two spaces all the same.
        ({"visual": "dino-vitb16", "text": "bert-base"}, "both halves of one CLIP"),
        ({"visual": "clip-vit-b16", "text": "clip-vit-b32"}, "both halves of one CLIP"),
        ({"visual": "siglip-b16", "text": "siglip-b16"}, "set visual_tokens = 'value'"),
        ({"text": "constant"}, "both halves of one CLIP"),
    ],
)
def test_training_free_of_two_spaces_is_refused_with_the_remedy(pair: dict, told: str) -> None:
    with pytest.raises(FusionerError, match=told):
        RunContext(RunConfig.flat(preset="small", kind="training_free", **pair))
    assert RunConfig.flat(**pair).fusion.kind == "fusioner"


@pytest.mark.parametrize(
    ("pair", "way"),
    [
        ({}, {"visual_tokens": "conse", "text_tokens": "mean"}),
        ({"text": "minilm-l6"}, {"visual_tokens": "conse", "text_tokens": "mean"}),
        ({"visual": "clip-vit-b16", "text": "clip-vit-b16"}, {"visual_tokens": "value"}),
        ({"visual": "clip-rn50", "text": "clip-rn50"}, {"visual_tokens": ""}),
        ({"visual": "siglip-b16", "text": "siglip-b16"}, {"visual_tokens": "value"}),
        ({"visual": "dino-vitb16", "text": "clip-vit-b16"}, None),
        ({"text": "arbitrary"}, None),
    ],
)
def test_the_way_into_one_space(pair: dict, way: dict | None) -> None:
    assert aligned_tokens(PairConfig(**pair)) == way
    if way is not None:
        assert in_one_space(PairConfig(**{**pair, **way}))
        assert RunContext(RunConfig.flat(kind="training_free", **{**pair, **way})).run.fusion.offset == 0.2


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (
            {"visual_tokens": "", "text_tokens": ""},
            "tokens 'joined' and 'mean': for the packaged pair set visual_tokens = 'class_posteriors' and",
        ),
        ({"text": "bert-base"}, "for another pair similarity = 'learned'"),
    ],
)
def test_class_posteriors_need_tokens_that_are_distributions(pair: dict, told: str) -> None:
    run = RunConfig.flat(preset="modern", **pair)
    with pytest.raises(FusionerError, match=told):
        RunContext(run)
    assert RunContext(run.changed(similarity="learned")).run.fusion.kind == "cost_aggregation"
