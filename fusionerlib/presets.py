"""Named fusion modules and optimisations: what each changes from the defaults of the config."""

from collections.abc import Collection, Mapping
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
"""Prompt templates where neither the leaves nor the preset name any."""

DEMO: dict[str, Any] = {**TEMPLATES, "depth": 1, "hard_negatives": 0.75, "loss": "bce+dice", "text_noise": 0.7}
"""What suits the drawn scenes better than ``small`` as it is: every run with neither preset nor recipe."""

TOKENS: dict[str, dict[str, str]] = {
    "modern": {"visual_tokens": "classes", "text_tokens": "classes", "templates": "none", "synonyms": "everyday"},
}
"""How a preset reads the packaged pair, where that is not the pair's first way."""

READING = frozenset(leaf for tokens in TOKENS.values() for leaf in tokens)
"""Leaves of ``PairConfig`` that a preset decides for the packaged pair."""

OPTIMISATION = frozenset(leaf for recipe in RECIPES.values() for leaf in recipe) | {"text_noise"}
"""Leaves of ``TrainingConfig`` that a recipe, or ``DEMO``, decides."""


def resolved(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """``leaves`` with what their preset and recipe bring beside the sections of their own; what is given wins.

    A preset brings the recipe of its own name, and how it reads the packaged pair. With neither preset nor recipe it is
    ``DEMO`` on the preset ``small``. A table of vectors takes no templates, since it was made with one.
    """
    given = {"preset": "small", **leaves}
    if str(given.get("text", "")).startswith("vectors:"):
        given = {"templates": "none", **given}
    if not leaves.keys() & {"preset", "recipe"}:
        return {**DEMO, **given}
    preset = str(given["preset"])
    if preset in RECIPES:
        given = {"recipe": preset, **given}
    # Another model than the preset's, or another pair, reads tokens in a way of its own.
    own = {"visual": "packaged", "text": "packaged"}
    own |= {leaf: PRESETS.get(preset, {}).get(leaf, "") for leaf in ("kind", "likeness")}
    as_it_is = all(given.get(leaf, value) == value for leaf, value in own.items())
    return {**TEMPLATES, **(TOKENS.get(preset, {}) if as_it_is else {}), **given}


def undecided(leaves: Mapping[str, Any], *, fusion: Collection[str], new: Collection[str]) -> dict[str, Any]:
    """``leaves`` of a whole run without those that a ``preset`` or ``recipe`` among the ``new`` ones decides.

    fusion: the leaves of ``FusionConfig``, all of which are a preset's.
    """
    decided: set[str] = set()
    if "preset" in new:
        decided |= {*fusion, "recipe"}
        decided |= READING if leaves["visual"] == leaves["text"] == "packaged" else set()
    if decided or "recipe" in new:
        decided |= OPTIMISATION
    return {leaf: value for leaf, value in leaves.items() if leaf not in decided}
