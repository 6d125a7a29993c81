"""Ablations: trainings that differ from one run in a single thing, measured on the same mosaics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionerlib.config import RunConfig
from fusionerlib.datasets.mosaic_sets import mosaic_sets
from fusionerlib.encoders.registry import get_spec
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.evaluation.mosaics import evaluate_mosaics
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import StoredScenes
from fusionerlib.training.batch_sources import names_of
from fusionerlib.training.subsets import TrainingSubset
from studies.variants import Trained, VariantRunner

Variants = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Ablation, then setting, then the leaves that it changes."""

SHARES = {"images", "names"}
"""What a setting may change beside the leaves of a config: the share of the training images, and of the names."""
PAIRS = ("packaged / packaged", "packaged / arbitrary", "packaged / constant")
"""Encoders that need no download: with MiniLM's words, with drawn ones, and with one word for all."""
DEFAULT = ("fusion depth", "where they meet", "templates")

VARIANTS: Variants = {
    "pair": {},
    "fusion depth": {"1 block": {"depth": 1}, "2 blocks": {"depth": 2}, "4 blocks": {"depth": 4}},
    "width": {"96": {"width": 96}, "192": {"width": 192}, "384": {"width": 384}},
    # Of two blocks, late fusion gives each side one: the same number of trainable parameters.
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
"""What can be varied, and which leaves of the run's config each setting changes. Equal configs train once.

The settings of "pair" are made by ``chosen_variants``.
"""


def chosen_variants(ablations: Sequence[str] = DEFAULT, *, pairs: Sequence[str] = PAIRS) -> Variants:
    """The ablations of these names. pairs: of visual and text encoder, "VISUAL / TEXT", for the ablation "pair".

    Raises FusionerError for an unknown ablation or encoder, and for what is not written as a pair.
    """
    for name in ablations:
        if name not in VARIANTS:
            raise FusionerError(f"unknown ablation {name!r}: {nearest(name, list(VARIANTS))}")
    made = {pair: _pair(pair) for pair in pairs}
    return {name: made if name == "pair" else VARIANTS[name] for name in dict.fromkeys(ablations)}


def ablate(
    context: RunContext, *, steps: int, batch: int, mosaics: int, seeds: int, directory: Path, variants: Variants
) -> list[dict[str, Any]]:
    """One row for every variant, seed, test split and figure: ablation, setting, metric, value, seed, parameters.

    Each variant trains ``steps`` steps on stored features; running checkpoints lie in ``directory``, so that a stopped
    ablation goes on. All are measured on the same mosaics; at another input size they are drawn at that size.
    """
    bench = VariantRunner(context, directory=directory)
    trained = names_of(bench.scenes(context.run).pairs())
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
                    stored = {name: bench.features(run, found, f"mosaics of {name}") for name, found in sets.items()}
                    done[key] = _measured(_trained(bench, run, shares), stored)
                rows += [{"ablation": ablation, "setting": setting, "seed": seed, **row} for row in done[key]]
    return rows


def _trained(bench: VariantRunner, run: RunConfig, shares: Mapping[str, float]) -> Trained:
    feed = bench.scenes(run)
    if not shares:
        return bench.train(run, feed=feed)
    fewer = TrainingSubset(feed.scenes, feed.pairs(), views=run.data.views, seed=run.training.seed, **shares)
    return bench.train(run, feed=fewer)


def _measured(trained: Trained, stored: Mapping[str, StoredScenes]) -> list[dict[str, Any]]:
    model, text_cache = trained.model, trained.text_cache
    figures = {
        name: evaluate_mosaics(model, mosaics, text_cache, quiet=True).figures() for name, mosaics in stored.items()
    }
    shared = {"parameters": model.trainable()["total"], "loss": trained.loss}
    return [
        {"metric": f"{figure}, {name}", "value": figures[name][figure], **shared}
        for name in figures
        for figure in ("assignment", "miou")
    ]


def _pair(pair: str) -> dict[str, str]:
    visual, slash, text = (part.strip() for part in pair.partition(" / "))
    if not slash:
        raise FusionerError(f"pair {pair!r}: expected a visual and a text encoder, such as 'packaged / packaged'")
    ways = ("visual_weights", "text_weights", "visual_tokens", "text_tokens")
    # The rows are asked for, so that an unknown encoder is told before anything is trained.
    return {
        **dict.fromkeys(ways, ""),
        "visual": get_spec("visual", visual).name,
        "text": get_spec("text", text).name,
    }
