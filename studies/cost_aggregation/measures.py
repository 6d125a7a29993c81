"""What one trained fold says of unseen names: asked alone, asked wrongly, asked among all, and with perfect masks."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fusionerlib.datasets.scene import IGNORE
from fusionerlib.datasets.sets import Benchmark
from fusionerlib.evaluation.evaluator import Evaluator
from fusionerlib.evaluation.metrics import ClassCounts
from fusionerlib.evaluation.scoring import Prediction, score, zero_shot
from fusionerlib.evaluation.thresholds import STEPS, ThresholdTable
from fusionerlib.features.store import StoredScenes
from fusionerlib.models.cost_aggregation import CostAggregation


class PredictedArea:
    """How much of an image is painted for a name that is not in it, at every threshold; by kind of name."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self.kinds = kinds
        self._above = {kind: np.zeros(STEPS + 1) for kind in dict.fromkeys(kinds.values())}
        self._count = dict.fromkeys(self._above, 0)

    def add(self, names: Sequence[str], probabilities: Float[np.ndarray, "names height width"]) -> None:
        """Names asked of one image that does not show them, with their probabilities (0-1)."""
        for name, map in zip(names, probabilities, strict=True):
            counts = np.bincount((map * STEPS).astype(np.int64).ravel(), minlength=STEPS + 1)
            self._above[self.kinds[name]] += counts[::-1].cumsum()[::-1] / map.size
            self._count[self.kinds[name]] += 1

    def share(self, threshold: float) -> dict[str, float]:
        """Mean share (0-1) of pixels at or over ``threshold``, by kind, over all pairs of an image and absent name."""
        step = round(threshold * STEPS)
        return {kind: float(above[step] / max(1, self._count[kind])) for kind, above in self._above.items()}


def bars(evaluator: Evaluator, *, classes: Collection[str], thresholds: Sequence[float] = ()) -> dict[str, Any]:
    """The figures of a checkpoint with a fold of PASCAL-5i held out, by IoU (0-1) of those of ``classes`` held out.

    one: published pairs asked one by one. absent: the same classes' images asked for a name that is not there, compared
    with the object. all: every image asked for all names at once, with the seen / unseen / harmonic triple beside it.
    painted: share of pixels over the threshold, by ``novel`` and ``seen`` absent names. perfect: all names at once
    where true masks are named by the text side alone (cost aggregation only). at: one, absent, all and painted at
    further ``thresholds``, without training or answering again.
    """
    tests = evaluator.benchmarks()
    everything, names = tests["all"], tests["all"].names
    new = evaluator.unseen(names)
    scored = [name for name in new if name in classes]
    painted = PredictedArea({name: "novel" if name in new else "seen" for name in names})
    table = ThresholdTable(names)
    queries = evaluator.queries(everything)
    answers = _watched(evaluator.predictions(everything, queries), everything, painted)
    together = score(answers, present=everything.scenes.names, threshold=evaluator.threshold, table=table).iou
    one, absent = evaluator(tests["novel"]), evaluator.absent_prompts(everything, names=new)

    def chosen(iou: dict[str, float]) -> dict[str, float]:
        return {name: iou[name] for name in scored if name in iou}

    found: dict[str, Any] = {
        "one": chosen(one.iou),
        "absent": chosen(absent.iou),
        "all": chosen(together),
        "triple": zero_shot(together, unseen=new),
        "painted": painted.share(evaluator.threshold),
        "at": {
            str(level): {
                "one": chosen(one.table.iou(level)),
                "absent": chosen(absent.table.iou(level)),
                "all": chosen(table.iou(level)),
                "painted": painted.share(level),
            }
            for level in thresholds
        },
    }
    model = evaluator.checkpoint.model
    if isinstance(model, CostAggregation):
        stored = evaluator.context.features(everything.scenes, "features of test")
        found["perfect"] = chosen(named_masks(model, stored, evaluator, names=names))
    return found


def named_masks(
    model: CostAggregation, scenes: StoredScenes, evaluator: Evaluator, *, names: Sequence[str]
) -> dict[str, float]:
    """IoU (0-1) by name where every true mask is filled with the one of ``names`` that the text side finds likest.

    A mask's tokens are averaged, by the share of each patch that it covers; nothing is painted outside masks.
    """
    words, counts = evaluator.context.text_cache.tokens(names)[None], ClassCounts()
    for index in range(len(scenes)):
        scene = scenes[index]
        rows, columns = scene.tokens.shape[:2]
        labels = scene.labels
        guess = np.zeros(labels.shape, dtype=np.int32)
        target = np.zeros(labels.shape, dtype=np.int32)
        target[labels.numpy() == IGNORE] = IGNORE
        for label, name in enumerate(scene.names, start=1):
            inside = labels == label
            if name not in names or not inside.any():
                continue
            share = torch.nn.functional.adaptive_avg_pool2d(inside[None, None].float(), (rows, columns))[0, 0]
            token = (scene.tokens * share[..., None]).sum((0, 1)) / share.sum()
            likest = int(model.patch_similarity(token[None, None], words)[0, :, 0].argmax())
            guess[inside.numpy()], target[inside.numpy()] = likest + 1, names.index(name) + 1
        counts.add(tuple(names), guess, target)
    return {row["name"]: row["iou"] for row in counts.table()}


def _watched(answers: Iterator[Prediction], everything: Benchmark, painted: PredictedArea) -> Iterator[Prediction]:
    for query, probabilities, labels in answers:
        there = everything.scenes.names(query.scene)
        absent = [place for place, name in enumerate(query.names) if name not in there]
        painted.add([query.names[place] for place in absent], probabilities[absent])
        yield query, probabilities, labels
