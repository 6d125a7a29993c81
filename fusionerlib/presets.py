"""Named models and optimisations: the values that a preset or a recipe gives to the leaves of a run's config."""

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
        "kind": "cost_aggregation",
        "similarity": "class_posteriors",
        "examples": True,
        "confidence_rescaling": 1.0,
        "width": 48,
        "depth": 2,
        "dropout": 0.1,
        "logit_bias": -2.0,
        "decoder_width": 24,
        "decoder_scales": (2,),
        "upsample": "subpixel",
    },
}
"""Named models: the leaves of ``FusionConfig`` that differ from its defaults, which are the paper's table."""

RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "bmvc2022": {
        "epochs": 510,
        "warmup_epochs": 10,
        "batch": 32,
        "feed": "online",
        "positives": 1,
        "negatives": 0,
        "loss_stride": 1,
        "weight_decay": 0.01,
        "final_weight_decay": 0.4,
        "decoder_constant": True,
        "peak_in_warmup": True,
        "decay_category": True,
    },
    "modern": {
        "batch": 12,
        "positives": 3,
        "negatives": 9,
        "hard_negatives": 0.0,
        "loss": "bce+dice+softmax",
        "lr": 2e-3,
        "mixed_precision": "auto",
        "warmup": 30,
        "weight_decay": 0.05,
        "final_weight_decay": 0.05,
    },
}
"""Named optimisations: the leaves of ``TrainingConfig`` that differ from its defaults."""

TEMPLATES = {"templates": "eight"}
"""Prompt templates where neither the leaves nor the preset name any."""

DEMO: dict[str, Any] = {
    "templates": "none",
    "width": 128,
    "depth": 1,
    "heads": 4,
    "decoder_width": 64,
    "hard_negatives": 0.75,
    "loss": "bce+dice",
    "text_noise": 0.7,
    "optimiser": "muon",
    "steps": 400,
}
"""Used where neither preset nor recipe is given: ``small`` with changes that suit the drawn OpenMoji scenes.

The packaged text encoder reads a bare name as well as a name in eight sentences, in an eighth of the time; with another
text encoder ``TEMPLATES`` are used.
"""

TOKENS: dict[str, dict[str, str]] = {
    "modern": {
        "visual_tokens": "class_posteriors",
        "text_tokens": "class_posteriors",
        "templates": "none",
        "synonyms": "everyday",
    },
}
"""The leaves of the packaged pair that a preset needs, where they are not the pair's defaults."""

READING = frozenset(leaf for tokens in TOKENS.values() for leaf in tokens)
"""Leaves of ``PairConfig`` that a preset sets for the packaged pair."""

INPUTS: dict[str, dict[str, dict[str, str]]] = {
    "bmvc2022": {
        name: {"templates": "openai", "names": "identifiers", "normalisation": name, "augmentation": name}
        for name in ("pascal", "coco")
    },
}
"""By recipe and data set, what the encoders are given in the paper's own runs (docs/protocol.md says what differs)."""

FINE_TUNING: dict[str, Any] = {"lr": 5e-4, "rehearsal": 10.0}
"""Leaves of a training that starts from a checkpoint, where neither preset nor recipe are given."""

OPTIMISATION = frozenset(leaf for recipe in RECIPES.values() for leaf in recipe) | {"text_noise", "optimiser"}
"""Leaves of ``TrainingConfig`` that a recipe, or ``DEMO``, sets."""


def resolved(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """``leaves`` together with the leaves of other sections that their preset implies; explicit values win.

    A preset implies the recipe of its own name, and the tokens it needs from the packaged pair. A recipe implies what
    the encoders are given for a data set (``INPUTS``). With neither preset nor recipe the result is ``DEMO`` on the
    preset ``small``. A table of vectors gets no templates: it was made with its own.
    """
    given = {"preset": "small", **leaves}
    if str(given.get("text", "")).startswith("vectors:"):
        given = {"templates": "none", **given}
    if not leaves.keys() & {"preset", "recipe"}:
        templates = {} if given.get("text", "packaged") == "packaged" else TEMPLATES
        return {**DEMO, **templates, **given}
    preset = str(given["preset"])
    if preset in RECIPES:
        given = {"recipe": preset, **given}
    given = {**_inputs(given), **given}
    # Only the preset's own model on the packaged pair needs these tokens.
    own = {"visual": "packaged", "text": "packaged"}
    own |= {leaf: PRESETS.get(preset, {}).get(leaf, "") for leaf in ("kind", "similarity")}
    as_it_is = all(given.get(leaf, value) == value for leaf, value in own.items())
    return {**TEMPLATES, **(TOKENS.get(preset, {}) if as_it_is else {}), **given}


def _inputs(leaves: Mapping[str, Any]) -> dict[str, str]:
    return INPUTS.get(str(leaves.get("recipe")), {}).get(str(leaves.get("dataset")), {})


def undecided(leaves: Mapping[str, Any], *, fusion: Collection[str], new: Mapping[str, Any]) -> dict[str, Any]:
    """``leaves`` of a whole run without those that a preset, recipe or steps among the ``new`` replace.

    fusion: names of all leaves of ``FusionConfig``; a preset replaces all of them.
    """
    decided: set[str] = set()
    if "preset" in new:
        decided |= {*fusion, "recipe"}
        decided |= READING if leaves["visual"] == leaves["text"] == "packaged" else set()
    if decided or "recipe" in new:
        decided |= OPTIMISATION
    recipe = new.get("recipe", new.get("preset", leaves["recipe"]))
    if decided >= OPTIMISATION and (leaves["epochs"] or "epochs" in RECIPES.get(recipe, {})):
        decided |= {"steps"}
    # What a recipe gives the encoders goes with it, and with the data set that it is for.
    inputs = [_inputs(leaves), _inputs({**leaves, **new, "recipe": recipe})]
    if inputs[0] != inputs[1]:
        decided |= {leaf for given in inputs for leaf in given}
    if "steps" in new:
        decided |= {"epochs", "warmup_epochs"}
    elif "warmup" in new:
        decided |= {"warmup_epochs"}
    return {leaf: value for leaf, value in leaves.items() if leaf not in decided}
