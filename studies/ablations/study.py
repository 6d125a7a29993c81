"""Ablations: trainings that differ from one run in a single setting, evaluated on the same mosaics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionerlib.config import RunConfig
from fusionerlib.datasets.mosaic_sets import mosaic_sets
from fusionerlib.datasets.mosaics import Mosaics
from fusionerlib.encoders.registry import get_spec
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.evaluation.mosaics import evaluate_mosaics
from fusionerlib.features.context import RunContext
from fusionerlib.training.batch_sources import names_of
from fusionerlib.training.subsets import TrainingSubset
from studies.variants import stored_source, train_variant

Variants = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Changed leaves by ablation and setting."""

SHARES = {"images", "names"}
"""Keys of a setting that are not leaves of a config: the share of the training images, and of the names."""
PAIRS = ("packaged / packaged", "packaged / arbitrary", "packaged / constant")
"""Pairs that need no download: MiniLM's embeddings, random embeddings, and one embedding for all names."""
DEFAULT = ("fusion depth", "where they meet", "templates")

VARIANTS: Variants = {
    "pair": {},
    "fusion depth": {"1 block": {"depth": 1}, "2 blocks": {"depth": 2}, "4 blocks": {"depth": 4}},
    "width": {"96": {"width": 96}, "192": {"width": 192}, "384": {"width": 384}},
    # Late fusion of depth 2 has one block on each side: the same number of trainable parameters.
    "where they meet": {"early": {"kind": "fusioner", "depth": 2}, "late": {"kind": "late", "depth": 2}},
    "modality embedding": {"with": {"modality": True}, "without": {"modality": False}},
    "decoder": {
        "1 stage": {"decoder_scales": ()},
        "2 stages, to 2 x": {"decoder_scales": (2,)},
        "3 stages, to 4 x": {"decoder_scales": (2, 4)},
        "4 stages, to 8 x": {"decoder_scales": (2, 4, 8)},
    },
    "templates": {"1": {"templates": "none"}, "8": {"templates": "eight"}},
    "temperature": {"0.03": {"temperature": 0.03}, "0.07": {"temperature": 0.07}, "0.2": {"temperature": 0.2}},
    "loss": {name: {"loss": name} for name in ("bce", "bce+dice", "focal+dice")},
    "negatives": {
        "none, 1 name (paper)": {"positives": 1, "negatives": 0},
        "none": {"negatives": 0},
        "6": {"negatives": 6, "hard_negatives": 0.0},
        "6, half of them hard": {"negatives": 6, "hard_negatives": 0.5},
    },
    "input size": {f"{size} pixels": {"size": size} for size in (128, 224, 320)},
    "training images": {"1/8": {"images": 1 / 8}, "1/4": {"images": 1 / 4}, "1/2": {"images": 1 / 2}, "all": {}},
    "training classes": {"1/8": {"names": 1 / 8}, "1/4": {"names": 1 / 4}, "1/2": {"names": 1 / 2}, "all": {}},
}
"""All ablations. Equal configs are trained once. The settings of "pair" come from ``chosen_variants``."""


def chosen_variants(ablations: Sequence[str] = DEFAULT, *, pairs: Sequence[str] = PAIRS) -> Variants:
    """The ablations of these names. pairs: settings of the ablation "pair", written "VISUAL / TEXT".

    Raises FusionerError for an unknown ablation or encoder, and for a pair that is not written so.
    """
    for name in ablations:
        if name not in VARIANTS:
            raise FusionerError(f"unknown ablation {name!r}: {nearest(name, list(VARIANTS))}")
    by_pair = {pair: _pair(pair) for pair in pairs}
    return {name: by_pair if name == "pair" else VARIANTS[name] for name in dict.fromkeys(ablations)}


def ablate(
    context: RunContext, *, steps: int, batch: int, mosaics: int, seeds: int, directory: Path, variants: Variants
) -> list[dict[str, Any]]:
    """A row for every variant, seed, test split and figure: ablation, setting, metric, value, seed, parameters, loss.

    Each variant trains ``steps`` steps on stored features. Running checkpoints are kept in ``directory``, so that an
    interrupted ablation goes on. All are evaluated on the same mosaics, drawn at the variant's input size.
    """
    trained = names_of(stored_source(context.with_run(context.run.changed(feed="stored"))).pairs())
    budget = {"steps": steps, "batch": batch, "warmup": min(20, steps)}
    fixed = {"validate_every": steps, "checkpoint_every": steps, "feed": "stored"}
    done: dict[tuple[RunConfig, tuple[tuple[str, float], ...]], list[dict[str, Any]]] = {}
    rows = []
    for ablation, settings in variants.items():
        for setting, changes in settings.items():
            shares = {key: value for key, value in changes.items() if key in SHARES}
            leaves = {key: value for key, value in changes.items() if key not in SHARES}
            for seed in range(seeds):
                run = context.run.changed(**{**leaves, **budget, **fixed, "seed": seed})
                key = (run, tuple(sorted(shares.items())))
                if key not in done:
                    sets = mosaic_sets(run.data, count=mosaics, seed=0, trained=trained)
                    done[key] = _train_and_evaluate(context.with_run(run), shares, sets, directory=directory)
                rows += [{"ablation": ablation, "setting": setting, "seed": seed, **row} for row in done[key]]
    return rows


def _train_and_evaluate(
    context: RunContext, shares: Mapping[str, float], sets: Mapping[str, Mosaics], *, directory: Path
) -> list[dict[str, Any]]:
    source = stored_source(context)
    if shares:
        views, seed = context.run.data.views, context.run.training.seed
        source = TrainingSubset(source.scenes, source.pairs(), views=views, seed=seed, **shares)
    trained = train_variant(context, directory=directory, source=source)
    shared = {"parameters": trained.parameters, "loss": trained.loss}
    rows = []
    for name, mosaics in sets.items():
        stored = context.features(mosaics, f"mosaics of {name}", quiet=True)
        figures = evaluate_mosaics(trained.checkpoint.model, stored, context.text_cache, quiet=True).figures()
        rows += [{"metric": f"{key}, {name}", "value": figures[key], **shared} for key in ("assignment", "miou")]
    return rows


def _pair(pair: str) -> dict[str, str]:
    visual, slash, text = (part.strip() for part in pair.partition(" / "))
    if not slash:
        raise FusionerError(f"pair {pair!r}: expected a visual and a text encoder, such as 'packaged / packaged'")
    others = ("visual_weights", "text_weights", "visual_tokens", "text_tokens")
    # get_spec raises for an unknown encoder, before anything is trained.
    return {
        **dict.fromkeys(others, ""),
        "visual": get_spec("visual", visual).name,
        "text": get_spec("text", text).name,
    }
