"""Ablations: trainings that differ from one run in a single thing, measured on the same mosaics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionerlib.config import RunConfig
from fusionerlib.datasets.mosaic_sets import mosaic_sets
from fusionerlib.features import StoredScenes
from fusionerlib.mosaic_evaluation import evaluate_mosaics
from fusionerlib.training import train
from fusionerlib.words import WordTable
from fusionerlib.workspace import Workspace

Variants = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Ablation, then setting, then the leaves that it changes."""

VARIANTS: Variants = {
    "fusion depth": {"1 block": {"depth": 1}, "2 blocks": {"depth": 2}, "4 blocks": {"depth": 4}},
    # Of two blocks, late fusion gives each side one: the same number of trainable parameters.
    "where they meet": {"early": {"depth": 2}, "late": {"kind": "late", "depth": 2}},
    "templates": {"1": {"templates": "none"}, "8": {"templates": "eight"}},
}
"""What is varied, and which leaves of the run's config each variant changes. Equal configs train once."""


def varied(run: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """``run`` with some leaves changed, each in the section that has it."""
    sections = {
        name: section.model_copy(
            update={key: value for key, value in changes.items() if key in type(section).model_fields}
        )
        for name, section in run
    }
    return RunConfig.model_validate({name: section.model_dump() for name, section in sections.items()})


def ablate(
    work: Workspace, *, steps: int, batch: int, mosaics: int, seeds: int, directory: Path, variants: Variants = VARIANTS
) -> list[dict[str, Any]]:
    """One row for every variant, seed, test split and figure: ablation, setting, metric, value, seed, parameters.

    Each variant trains ``steps`` steps on the features that are stored already; running checkpoints lie in
    ``directory``, so that a stopped ablation goes on.
    """
    scenes = work.features(work.sets.train, "training features")
    trained = sorted({name for _, name in scenes.pairs()})
    sets = mosaic_sets(work.run.data, count=mosaics, seed=0, trained=trained)
    stored = {name: work.features(found) for name, found in sets.items()}
    done: dict[RunConfig, list[dict[str, Any]]] = {}
    tables = {work.run.pair: work.words}
    rows = []
    for ablation, settings in variants.items():
        for setting, changes in settings.items():
            for seed in range(seeds):
                run = varied(
                    work.run, {**changes, "steps": steps, "batch": batch, "seed": seed, "warmup": min(20, steps)}
                )
                run = varied(run, {"validate_every": steps, "checkpoint_every": steps, "feed": "stored"})
                if run not in done:
                    if run.pair not in tables:
                        tables[run.pair] = Workspace(run, work.device).words
                    words = tables[run.pair]
                    done[run] = _measured(run, words, scenes, stored, directory / f"{len(done):02d}")
                rows += [{"ablation": ablation, "setting": setting, "seed": seed, **row} for row in done[run]]
    return rows


def _measured(
    run: RunConfig, words: WordTable, scenes: StoredScenes, stored: Mapping[str, StoredScenes], directory: Path
) -> list[dict[str, Any]]:
    model, history = train(run=run, scenes=scenes, words=words, directory=directory)
    figures = {name: evaluate_mosaics(model, mosaics, words, quiet=True).figures() for name, mosaics in stored.items()}
    shared = {"parameters": model.trainable()["total"], "loss": history[-1]["loss"]}
    return [
        {"metric": f"{figure}, {name}", "value": figures[name][figure], **shared}
        for name in figures
        for figure in ("assignment", "miou")
    ]
