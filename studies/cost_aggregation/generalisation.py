"""Generalisation to unseen classes: the evaluation of a checkpoint that was trained with a fold of PASCAL-5i held out.

Keys in records (they name the protocols as the first records did): ``one`` single-prompt, ``absent`` absent-prompt
control, ``all`` all-classes, ``perfect`` oracle masks, ``painted`` predicted area.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.datasets.sets import Benchmark
from fusionerlib.evaluation.evaluator import Evaluator
from fusionerlib.evaluation.metrics import ClassCounts
from fusionerlib.evaluation.scoring import Prediction, score, zero_shot
from fusionerlib.evaluation.thresholds import STEPS, ThresholdTable
from fusionerlib.features.store import StoredScenes
from fusionerlib.features.text import name_tokens
from fusionerlib.models.cost_aggregation import CostAggregation


class PredictedArea:
    """The share of pixels predicted for names that are not in the image, at every threshold.

    kinds: the kind of each name, such as "novel" or "seen"; results are means for each kind.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self._above = {kind: np.zeros(STEPS + 1) for kind in dict.fromkeys(kinds.values())}
        self._count = dict.fromkeys(self._above, 0)

    def add(self, names: Sequence[str], probabilities: Float[np.ndarray, "names height width"]) -> None:
        """Add the probabilities (0-1) of ``names``, none of which is in the image."""
        for name, map in zip(names, probabilities, strict=True):
            counts = np.bincount((map * STEPS).astype(np.int64).ravel(), minlength=STEPS + 1)
            self._above[self.kinds[name]] += counts[::-1].cumsum()[::-1] / map.size
            self._count[self.kinds[name]] += 1

    def share(self, threshold: float) -> dict[str, float]:
        """Mean share (0-1) of pixels with probability >= ``threshold`` over all pairs of image and absent name."""
        step = round(threshold * STEPS)
        return {kind: float(above[step] / max(1, self._count[kind])) for kind, above in self._above.items()}


def generalisation(
    evaluator: Evaluator, *, classes: Collection[str], thresholds: Sequence[float] = ()
) -> dict[str, Any]:
    """IoU (0-1) of the held-out ones of ``classes``, by protocol and class.

    one: single-prompt, the published pairs asked one at a time. absent: absent-prompt control, the same classes' images
    asked for a name that is not in them, scored against the object. all: all-classes, every image asked for all names
    at once; triple: mean IoU of seen and unseen classes and their harmonic mean. painted: predicted area of absent
    names, unseen (novel) and seen. perfect: oracle masks, all-classes with true masks that the text side names (cost
    aggregation only). at: one, absent, all and painted at the other ``thresholds``.
    """
    tests = evaluator.benchmarks()
    everything, names = tests["all"], tests["all"].names
    unseen = evaluator.unseen(names)
    scored = [name for name in unseen if name in classes]
    area = PredictedArea({name: "novel" if name in unseen else "seen" for name in names})
    table = ThresholdTable(names)
    predictions = _with_area(evaluator.predictions(everything, evaluator.queries(everything)), everything, area)
    together = score(predictions, present=everything.scenes.names, threshold=evaluator.threshold, table=table).iou
    one, absent = evaluator(tests["novel"]), evaluator.absent_prompts(everything, names=unseen)

    def of_scored(iou: Mapping[str, float]) -> dict[str, float]:
        return {name: iou[name] for name in scored if name in iou}

    found: dict[str, Any] = {
        "one": of_scored(one.iou),
        "absent": of_scored(absent.iou),
        "all": of_scored(together),
        "triple": zero_shot(together, unseen=unseen),
        "painted": area.share(evaluator.threshold),
        "at": {
            str(level): {
                "one": of_scored(one.table.iou(level)),
                "absent": of_scored(absent.table.iou(level)),
                "all": of_scored(table.iou(level)),
                "painted": area.share(level),
            }
            for level in thresholds
        },
    }
    model = evaluator.checkpoint.model
    if isinstance(model, CostAggregation):
        stored = evaluator.context.features(everything.scenes, "features of test")
        found["perfect"] = of_scored(oracle_masks(model, stored, evaluator, names=names))
    return found


def oracle_masks(
    model: CostAggregation, scenes: StoredScenes, evaluator: Evaluator, *, names: Sequence[str]
) -> dict[str, float]:
    """IoU (0-1) by class if every true mask is classified by the frozen encoders alone: an upper bound for ``model``.

    A mask's token is the mean of its patch tokens, weighted by the share of each patch that the mask covers; its class
    is the one of ``names`` with the highest similarity. Pixels outside all masks are background.
    """
    text_tokens, counts = name_tokens(model, evaluator.context.text_cache, names)[None], ClassCounts()
    for index in range(len(scenes)):
        scene = scenes[index]
        labels = scene.labels
        predicted = np.zeros(labels.shape, dtype=np.int32)
        target = np.zeros(labels.shape, dtype=np.int32)
        target[labels.numpy() == IGNORE] = IGNORE
        for label, name in enumerate(scene.names, start=1):
            inside = labels == label
            if name not in names or not inside.any():
                continue
            rows, columns = scene.tokens.shape[:2]
            share = F.adaptive_avg_pool2d(inside[None, None].float(), (rows, columns))[0, 0]
            token = (scene.tokens * share[..., None]).sum((0, 1)) / share.sum()
            best = int(model.patch_similarity(token[None, None], text_tokens)[0, :, 0].argmax())
            predicted[inside.numpy()], target[inside.numpy()] = best + 1, names.index(name) + 1
        counts.add(tuple(names), predicted, target)
    return {row["name"]: row["iou"] for row in counts.table()}


def _with_area(predictions: Iterator[Prediction], benchmark: Benchmark, area: PredictedArea) -> Iterator[Prediction]:
    """``predictions``, of which those for absent names are added to ``area``."""
    for query, probabilities, labels in predictions:
        present = benchmark.scenes.names(query.scene)
        absent = [place for place, name in enumerate(query.names) if name not in present]
        area.add([query.names[place] for place in absent], probabilities[absent])
        yield query, probabilities, labels
