"""Methods compared with the same training data, steps and test mosaics; and two controls."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.datasets.mosaic_sets import Kind
from fusionerlib.datasets.mosaics import Mosaics
from fusionerlib.datasets.scene import vocabulary
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.evaluation.mosaics import MosaicResult, curve_figures, evaluate_mosaics, robustness_curves
from fusionerlib.features.alignment import aligned_tokens, check_tokens
from fusionerlib.features.context import RunContext
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.models import SegmentationModel
from fusionerlib.training.batch_sources import names_of
from fusionerlib.training.subsets import OneObject
from studies.variants import stored_source, train_variant

Figures = dict[str, dict[str, float]]
"""Figures (0-1) by test. A test is a split ("objects"), a kind ("3x3"), or a curve's hardest level ("blur 8")."""
FIGURES = ("assignment", "miou", "miou_permuted", "chance")


@dataclass(frozen=True)
class Method:
    """A method of open-vocabulary segmentation, or a control.

    changes: leaves of the run's config that it changes. one_object: train on the union of all objects under one name
    (``subsets.OneObject``). shuffled: give every name the text token of another name.
    """

    about: str
    changes: Mapping[str, Any]
    one_object: bool = False
    shuffled: bool = False


METHODS: dict[str, Method] = {
    "fusioner": Method("early fusion: self-attention over patches and words (the paper)", {"kind": "fusioner"}),
    "late": Method("late fusion: self-attention within each side (the paper's baseline)", {"kind": "late"}),
    "lseg": Method("pixel embeddings trained towards frozen text embeddings (LSeg)", {"kind": "lseg"}),
    "spnet": Method("a linear map from pixels to frozen text embeddings (SPNet)", {"kind": "spnet"}),
    "similarity": Method(
        "cosine of text and patch token, no training (MaskCLIP)",
        {"kind": "training_free", "temperature": 0.07, "offset": 0.2},
    ),
    "modern": Method(
        "cost aggregation: convolutions over cosine maps, shared by all names (ours)", {"kind": "cost_aggregation"}
    ),
    "class-agnostic": Method(
        "control: all objects under one name", {"kind": "fusioner", "text": "constant"}, one_object=True
    ),
    "shuffled names": Method("control: each name has the text token of another", {"kind": "fusioner"}, shuffled=True),
}
"""All methods. One of another kind than the run's takes its fusion config from the preset ``small`` or ``modern``."""


class ShuffledNames(TextEmbeddingCache):
    """Control: every name has the text token of another name of its group.

    The set of tokens stays the same, only their assignment to names changes: a cyclic permutation of each group, drawn
    from ``seed`` and the same in training and tests. A name alone in its group keeps its token. groups: usually the
    names of training and all others, so that unseen names stay unseen. Raises FusionerError for a name of no group.
    """

    def __init__(self, text_cache: TextEmbeddingCache, groups: Sequence[Sequence[str]], *, seed: int) -> None:
        super().__init__(
            encoder=text_cache.encoder,
            templates=text_cache.templates,
            synonyms=text_cache.synonyms,
            table=text_cache.table,
            names=text_cache.spelling,
        )
        rng = np.random.default_rng((seed, 4))
        self.source: dict[str, str] = {}
        for group in groups:
            forms = sorted(map(self.form, group))
            ring = [forms[place] for place in rng.permutation(len(forms))]
            self.source |= dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))

    def _encoded(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        if unknown := [name for name in names if name not in self.source]:
            raise FusionerError(
                f"no shuffled token for {unknown[0]!r}: put every name that is trained or asked into one of the groups"
            )
        return super()._encoded([self.source[name] for name in names])


@dataclass(frozen=True)
class MosaicTests:
    """The mosaics that all methods are evaluated on.

    sets: 2x2 mosaics by split, the hardest last. kinds: harder kinds. curves: mosaics for the hardest level of each
    robustness curve, None for no curves. known: names that distractors are drawn from.
    """

    sets: Mapping[str, Mosaics]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    curves: Mosaics | None = None
    known: Collection[str] = ()
    seed: int = 0

    def names(self) -> set[str]:
        """All names that the tests can ask."""
        asked = {name for kind in self.kinds.values() for names in kind.asked or () for name in names}
        scenes = [*self.sets.values(), *(kind.scenes for kind in self.kinds.values())]
        return asked.union(self.known, *(vocabulary(one) for one in scenes))


def require_methods(names: Sequence[str]) -> None:
    """Raises FusionerError for a name that is not in ``METHODS``."""
    for name in names:
        if name not in METHODS:
            raise FusionerError(f"unknown method {name!r}: {nearest(name, list(METHODS))}")


def method_run(run: RunConfig, name: str, *, steps: int = 0) -> RunConfig:
    """The config that trains method ``name`` like ``run``, for ``steps`` steps; 0 takes as many as ``run``.

    Raises FusionerError for an unknown method, and for one that ``run``'s pair of encoders does not allow.
    """
    require_methods([name])
    changes = dict(METHODS[name].changes)
    if changes["kind"] == "training_free":
        changes |= aligned_tokens(run.pair) or {}
    if (run.fusion.kind == "cost_aggregation") != (changes["kind"] == "cost_aggregation"):
        preset = "modern" if changes["kind"] == "cost_aggregation" else "small"
        # The encoders and the optimisation stay those of the run.
        changes = {**dict(run.pair), **dict(run.training), "preset": preset, **changes}
        if changes["kind"] == "cost_aggregation":
            changes |= _modern_tokens(run.pair)
    budget = {"steps": steps, "warmup": min(run.training.warmup, steps // 10)} if steps else {}
    method = run.changed(**{**changes, **budget, "feed": "stored"})
    check_tokens(method)
    return method


def compare(
    context: RunContext, names: Sequence[str], tests: MosaicTests, *, directory: Path, steps: int = 0
) -> dict[str, tuple[int, Figures]]:
    """Train and evaluate each method of ``names`` on the data of ``context``: trainable parameters, figures by test.

    Running checkpoints are kept in ``directory``. Raises FusionerError as ``method_run``, before anything is trained.
    """
    contexts = {name: context.with_run(method_run(context.run, name, steps=steps)) for name in names}
    found = {}
    for name, own in contexts.items():
        source, text_cache = stored_source(own), own.text_cache
        if METHODS[name].one_object:
            source = OneObject(source.scenes, source.pairs())
        if METHODS[name].shuffled:
            trained_names = set(names_of(source.pairs()))
            groups = [sorted(trained_names), sorted(tests.names() - trained_names)]
            text_cache = ShuffledNames(text_cache, groups, seed=own.run.training.seed)
        trained = train_variant(own, directory=directory, source=source, text_cache=text_cache)
        features = partial(own.features, quiet=True)
        model = trained.checkpoint.model
        found[name] = (trained.parameters, evaluate_tests(model, text_cache, tests, features=features))
    return found


def evaluate_tests(
    model: SegmentationModel,
    text_cache: TextEmbeddingCache,
    tests: MosaicTests,
    *,
    features: Callable[[Any, str], StoredScenes],
) -> Figures:
    """The figures of ``model`` on all ``tests``. features: ``RunContext.features``."""
    results = {
        split: evaluate_mosaics(model, features(scenes, f"mosaics of {split}"), text_cache, quiet=True)
        for split, scenes in tests.sets.items()
    }
    for name, kind in tests.kinds.items():
        stored = features(kind.scenes, name)
        results[name] = evaluate_mosaics(
            model, stored, text_cache, grid=kind.grid, tile=kind.tile, asked=kind.asked, quiet=True
        )
    if tests.curves is None:
        return figures_of(results)
    curves = robustness_curves(
        model, tests.curves, text_cache, features=features, vocabulary=sorted(tests.known), seed=tests.seed, quiet=True
    )
    return figures_of(results, curves)


def figures_of(results: Mapping[str, MosaicResult], curves: Sequence[Mapping[str, Any]] = ()) -> Figures:
    """``FIGURES`` of each result, and those of each curve's hardest level. curves: ``robustness_curves``. All 0-1."""
    found = {name: {key: float(result.kind_figures()[key]) for key in FIGURES} for name, result in results.items()}
    chances = {row["curve"]: row["chance"] for row in curves}
    for curve, ends in curve_figures(curves).items():
        hard = {key: ends[f"{key}_hardest"] for key in ("assignment", "miou")}
        found[f"{curve} {ends['hardest']:g}"] = {**hard, "chance": chances[curve]}
    return found


def _modern_tokens(pair: PairConfig) -> dict[str, Any]:
    """Token leaves of ``modern`` for a pair: class posteriors for the packaged one, cosine for a pair in one embedding
    space, a learned linear map for others. Text noise is off where a token is a distribution over classes."""
    if (pair.visual, pair.text) == ("packaged", "packaged"):
        return {
            "visual_tokens": "class_posteriors",
            "text_tokens": "class_posteriors",
            "similarity": "class_posteriors",
            "text_noise": 0.0,
        }
    aligned = aligned_tokens(pair)
    return {"similarity": "learned"} if aligned is None else {**aligned, "similarity": "cosine"}
