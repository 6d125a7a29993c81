"""Methods that are compared on one footing: same training data, same steps, same mosaics; and two controls."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
from fusionerlib.training.subsets import OneObject
from studies.variants import VariantRunner

Figures = dict[str, dict[str, float]]
"""Figures by test: "objects" or another split, "3x3" or another kind, "blur 8" or another curve's hardest level."""
SHOWN = ("assignment", "miou", "miou_permuted", "chance")


@dataclass(frozen=True)
class Method:
    """One way to tie words to pixels.

    changes: leaves of the run's config that it changes. one_object: it trains on objects without their names, all of an
    image as one mask (``fewer.OneObject``): on a mosaic it is to find every tile's object, whichever name is asked.
    shuffled: every name has another name's token.
    """

    about: str
    changes: Mapping[str, Any]
    one_object: bool = False
    shuffled: bool = False


METHODS: dict[str, Method] = {
    "fusioner": Method("patches and words attend to each other (the paper)", {"kind": "fusioner"}),
    "late": Method("each side by itself, until the final product (the paper's baseline)", {"kind": "late"}),
    "lseg": Method("pixels trained to lie near frozen words (LSeg's head)", {"kind": "lseg"}),
    "spnet": Method("one linear map from pixels to frozen words (SPNet's)", {"kind": "spnet"}),
    "similarity": Method(
        "cosine of word and patch, no training (MaskCLIP's)",
        {"kind": "training_free", "temperature": 0.07, "offset": 0.2},
    ),
    "modern": Method("similarity maps, made into masks by shared convolutions (ours)", {"kind": "cost_aggregation"}),
    "class-agnostic": Method(
        "control: objects of any name, one word for all", {"kind": "fusioner", "text": "constant"}, one_object=True
    ),
    "shuffled names": Method("control: every name has another name's token", {"kind": "fusioner"}, shuffled=True),
}
"""By name. A method of another kind than the run's takes its fusion from the preset ``small`` or ``modern``."""


class ShuffledNames(TextEmbeddingCache):
    """Control: every name has the text token of another name of its group.

    The set of tokens stays the same, only their assignment to names changes: a cyclic permutation of each group, drawn
    from ``seed`` and the same in training and tests. A name alone in its group keeps its token. groups: usually the
    names of training and all others, so that unseen names stay unseen. Raises FusionerError for a name of no group.
    """

    def __init__(self, text_cache: TextEmbeddingCache, groups: Sequence[Sequence[str]], *, seed: int) -> None:
        super().__init__(encoder=text_cache.encoder, templates=text_cache.templates, synonyms=text_cache.synonyms)
        rng = np.random.default_rng((seed, 4))
        self.source: dict[str, str] = {}
        for group in groups:
            ring = [sorted(group)[place] for place in rng.permutation(len(group))]
            self.source |= dict(zip(ring, [*ring[1:], *ring[:1]], strict=True))

    def _encoded(self, names: Sequence[str]) -> Float[Tensor, "names dim"]:
        if unknown := [name for name in names if name not in self.source]:
            raise FusionerError(
                f"no shuffled token for {unknown[0]!r}: put every name that is trained or asked into one of the groups"
            )
        return super()._encoded([self.source[name] for name in names])


@dataclass(frozen=True)
class MosaicTests:
    """The mosaics that every method is measured on, the same for all.

    sets: 2x2 mosaics by split, the hardest last. kinds: harder kinds. curves: mosaics whose hardest corruptions are
    measured, None leaves them out. known: names that distractors are drawn from.
    """

    sets: Mapping[str, Mosaics]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    curves: Mosaics | None = None
    known: Collection[str] = ()
    seed: int = 0

    def names(self) -> set[str]:
        """All names that may be asked."""
        asked = {name for kind in self.kinds.values() for names in kind.asked or () for name in names}
        scenes = [*self.sets.values(), *(kind.scenes for kind in self.kinds.values())]
        return asked.union(self.known, *(vocabulary(one) for one in scenes))


def require_methods(names: Sequence[str]) -> None:
    """Raises FusionerError for a name that is not in ``METHODS``."""
    for name in names:
        if name not in METHODS:
            raise FusionerError(f"unknown method {name!r}: {nearest(name, list(METHODS))}")


def method_run(run: RunConfig, name: str, *, steps: int = 0) -> RunConfig:
    """The run that trains method ``name`` as ``run`` was trained, for ``steps`` steps; 0 takes as many as ``run``.

    Raises FusionerError for an unknown method, and for one that ``run``'s pair of encoders does not allow.
    """
    require_methods([name])
    changes = dict(METHODS[name].changes)
    if changes["kind"] == "training_free":
        changes |= aligned_tokens(run.pair) or {}
    if (run.fusion.kind == "cost_aggregation") != (changes["kind"] == "cost_aggregation"):
        preset = "modern" if changes["kind"] == "cost_aggregation" else "small"
        # The pair and the optimisation stay the run's own.
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
    """Each method of ``names`` trained on the data of ``context`` and evaluated: trainable parameters, figures by test.

    Running checkpoints lie in ``directory``. Raises FusionerError as ``method_run`` does, before anything is trained.
    """
    runs = {name: method_run(context.run, name, steps=steps) for name in names}
    bench = VariantRunner(context, directory=directory)
    found = {}
    for name, run in runs.items():
        feed, text_cache = bench.scenes(run), bench.text_cache(run)
        if METHODS[name].one_object:
            feed = OneObject(feed.scenes, feed.pairs())
        if METHODS[name].shuffled:
            trained = {pair[1] for pair in feed.pairs()}
            groups = [sorted(trained), sorted(tests.names() - trained)]
            text_cache = ShuffledNames(text_cache, groups, seed=run.training.seed)
        model = bench.train(run, feed=feed, text_cache=text_cache).model
        features = _Features(bench, run)
        found[name] = (model.trainable()["total"], measured(model, text_cache, tests, features=features))
    return found


def measured(
    model: SegmentationModel,
    text_cache: TextEmbeddingCache,
    tests: MosaicTests,
    *,
    features: Callable[[Any, str], StoredScenes],
) -> Figures:
    """The figures of ``model`` on all ``tests``. features: ``RunContext.features``, what stores frozen features."""
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
    """What ``SHOWN`` names of each result; of the rows of ``robustness_curves`` the hardest level. All 0-1."""
    found = {name: {key: float(result.kind_figures()[key]) for key in SHOWN} for name, result in results.items()}
    chances = {row["curve"]: row["chance"] for row in curves}
    for curve, ends in curve_figures(curves).items():
        hard = {key: ends[f"{key}_hardest"] for key in ("assignment", "miou")}
        found[f"{curve} {ends['hardest']:g}"] = {**hard, "chance": chances[curve]}
    return found


@dataclass(frozen=True)
class _Features:
    bench: VariantRunner
    run: RunConfig

    def __call__(self, scenes: Any, description: str) -> StoredScenes:
        return self.bench.features(self.run, scenes, description)


def _modern_tokens(pair: PairConfig) -> dict[str, Any]:
    """How ``modern`` reads a pair: the packaged one over classes, one in one space by cosine, others by a learned map.

    Noise on words that are distributions over classes would make other words of them.
    """
    if (pair.visual, pair.text) == ("packaged", "packaged"):
        return {
            "visual_tokens": "class_posteriors",
            "text_tokens": "class_posteriors",
            "similarity": "class_posteriors",
            "text_noise": 0.0,
        }
    way = aligned_tokens(pair)
    return {"similarity": "learned"} if way is None else {**way, "similarity": "cosine"}
