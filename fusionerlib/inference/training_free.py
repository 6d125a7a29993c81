"""The run of a segmenter without training: a pair of encoders in one space, and one that may lend its affinities.

Everything is in the run's config, so that such a segmenter is saved and loaded as a checkpoint without a weight.
"""

import math

from fusionerlib.config import PairConfig, RunConfig
from fusionerlib.encoders.registry import get_spec
from fusionerlib.features.alignment import check_tokens, in_one_space

LEAST_SIZE = 320
"""Least side of the input in pixels: patches of 16 pixels are too coarse at 224, where the towers were trained."""
REPAIRS = ("clear", "value", "")
"""Kinds of CLIP's patch tokens without affinity, the best published results first; "" is the encoder's first."""
PACKAGED = {"visual_tokens": "conse", "text_tokens": "mean", "synonyms": "everyday"}
"""The leaves of the packaged pair. Its class posteriors are in one space too, but the cosine of two distributions says
how spread a name is as much as where it is: no one cosine divides names from background."""


def training_free_run(pair: PairConfig, *, size: int = 0, offset: float | None = None) -> RunConfig:
    """The run of kind ``training_free`` on ``pair``; where a leaf of it is "", as ``Segmenter.training_free`` says.

    size, offset: see there too. Raises FusionerError for a pair in two spaces and for unknown encoders.
    """
    packaged, tokens = pair.visual == "packaged", pair.visual_tokens
    leaves = pair.model_dump(exclude_unset=True) | {
        "text": pair.text or pair.visual,
        "templates": pair.templates or ("none" if packaged else "openai"),
    }
    if packaged:
        leaves |= PACKAGED
        if tokens == "class_posteriors":
            leaves |= dict.fromkeys(("visual_tokens", "text_tokens"), tokens)
    elif not tokens:
        leaves["visual_tokens"] = _kind_in_one_space(PairConfig(**leaves))
    # Encoders that are known by their weights alone have no multiple yet.
    steps = [max(1, get_spec("visual", name).multiple) for name in (pair.visual, pair.affinity) if name]
    step = math.lcm(32, *steps)
    fusion = {} if offset is None else {"offset": offset}
    size = size or math.ceil(LEAST_SIZE / step) * step
    run = RunConfig.flat(preset="small", recipe="small", kind="training_free", size=size, **leaves, **fusion)
    check_tokens(run)
    return run


def _kind_in_one_space(pair: PairConfig) -> str:
    """The kind of patch token to take: with an affinity the encoder's first where it is in the space of the text."""
    kinds = ("", "value") if pair.affinity else REPAIRS
    known = [kind for kind in kinds if kind in ("", *get_spec("visual", pair.visual).tokens)]
    shared = [kind for kind in known if in_one_space(pair.model_copy(update={"visual_tokens": kind}))]
    return shared[0] if shared else ""
