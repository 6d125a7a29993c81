"""Named fusion modules and optimisations: what each changes from the defaults of the config."""

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "bmvc2022": {},
    "small": {
        "width": 192,
        "depth": 2,
        "heads": 6,
        "dropout": 0.1,
        "logit_bias": -3.0,
        "decoder_width": 96,
        "decoder_scales": (2,),
        "upsample": "logits",
    },
    "modern": {
        "kind": "maps",
        "likeness": "classes",
        "evidence": 1.0,
        "width": 48,
        "depth": 2,
        "dropout": 0.1,
        "logit_bias": -2.0,
        "decoder_scales": (2,),
    },
}
"""Named fusion modules: what each changes from the paper's table (the defaults of ``FusionConfig``)."""

RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "bmvc2022": {
        "batch": 32,
        "positives": 1,
        "negatives": 0,
        "loss_stride": 1,
        "weight_decay": 0.01,
        "final_weight_decay": 0.4,
        "decoder_constant": True,
    },
    "modern": {
        "batch": 12,
        "positives": 3,
        "negatives": 3,
        "hard_negatives": 0.0,
        "balanced": True,
        "loss": "bce+dice",
        "lr": 2e-3,
        "mixed_precision": "bf16",
        "warmup": 30,
        "weight_decay": 0.05,
        "final_weight_decay": 0.05,
    },
}
"""Named optimisations: what each changes from the defaults of ``TrainingConfig``."""

TEMPLATES = {"templates": "eight"}
"""Prompt templates of notebook 02 where neither it nor the preset names any."""

DEMO: dict[str, Any] = {**TEMPLATES, "depth": 1, "hard_negatives": 0.75, "loss": "bce+dice", "text_noise": 0.7}
"""What suits the drawn scenes better than ``small`` as it is: notebook 02 where it is told no preset."""

TOKENS: dict[str, dict[str, str]] = {
    "modern": {"visual_tokens": "classes", "text_tokens": "classes", "templates": "none", "synonyms": "everyday"},
}
"""How a preset reads the packaged pair, where that is not the pair's first way."""


def spelled_out(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """``leaves`` of a run as notebook 02 takes them, for ``RunConfig.flat``: those that are None are left out.

    A preset brings the recipe of its own name with it, and the way in which it reads the packaged pair; what is given
    wins. With neither preset nor recipe it is ``DEMO``.
    """
    given = {leaf: value for leaf, value in leaves.items() if value is not None}
    if not given.keys() & {"preset", "recipe"}:
        return {**DEMO, **given}
    preset, pair = given.get("preset"), {given.get(side, "packaged") for side in ("visual", "text")}
    if preset in RECIPES:
        given.setdefault("recipe", preset)
    if preset in TOKENS and pair == {"packaged"} and not given.keys() & {"kind", "likeness"}:
        given |= {leaf: way for leaf, way in TOKENS[preset].items() if not given.get(leaf)}
    return {**TEMPLATES, **given}
