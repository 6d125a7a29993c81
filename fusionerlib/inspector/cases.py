"""The images of the inspector: photos, labelled images, and the best and worst scenes of an evaluated run."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fusionerlib.datasets.scene import Scene, labels_for
from fusionerlib.errors import FusionerError
from fusionerlib.images import ImageLike


@dataclass(frozen=True)
class Case:
    """One image to inspect.

    image: anything that ``Segmenter.set_image`` accepts; read when it is shown. title: its name in lists.
    labels: 0 is background, k + 1 is ``names[k]``, 255 is ignored; None where there is no ground truth.
    names: the names to ask when the case is shown; () keeps the current names.
    """

    image: ImageLike
    title: str
    labels: UInt8[np.ndarray, "_ _"] | None = None
    names: tuple[str, ...] = ()


def as_cases(images: Any) -> list[Case]:
    """Cases from one image, or from a sequence of images, ``Scene``s, ``Case``s and (image, labels, names) triples.

    Raises FusionerError for anything else.
    """
    single = isinstance(images, str | os.PathLike | np.ndarray | Image.Image | Scene | Case)
    if not single and not isinstance(images, Iterable):
        raise FusionerError(f"images is {images!r}, expected a list of images, or of (image, labels, names) cases")
    return [_as_case(one, place) for place, one in enumerate([images] if single else images, start=1)]


def _as_case(given: Any, place: int) -> Case:
    if isinstance(given, Case):
        return given
    if isinstance(given, Scene):
        return Case(given.image, given.key, given.labels, given.names)
    if isinstance(given, tuple):
        if len(given) != 3:
            raise FusionerError(f"case {place} has {len(given)} parts, expected three: image, labels, names")
        image, labels, names = given
        return Case(image, _title(image, place), np.asarray(labels).astype(np.uint8), tuple(names))
    if not isinstance(given, str | os.PathLike | np.ndarray | Image.Image):
        raise FusionerError(f"image {place} is a {type(given).__name__}: pass a path, a Pillow image or a uint8 array")
    return Case(given, _title(given, place))


def _title(image: Any, place: int) -> str:
    return Path(image).name if isinstance(image, str | os.PathLike) else f"image {place}"


def saved_cases(
    directory: Path | str, *, count: int = 4, test: str = "", threshold: float = 0.5, base: Path | str = ""
) -> Sequence[Case]:
    """The ``count`` best and the ``count`` worst scenes of the run in ``directory``, best first, worst last.

    Its checkpoint is evaluated again on ``test`` (a key of ``Evaluator.benchmarks``; "" is the first), from features
    stored by the evaluation where there are any. threshold: 0-1. base: see ``RunContext.of_checkpoint``.
    Raises FusionerError for a run without a checkpoint or data, and for an unknown test.
    """
    from fusionerlib.evaluation.evaluator import Evaluator
    from fusionerlib.features.context import RunContext

    context, checkpoint = RunContext.of_checkpoint(Path(directory) / "checkpoint", base=base)
    evaluator = Evaluator(context, checkpoint, threshold=threshold)
    benchmarks = evaluator.benchmarks()
    name = test or next(iter(benchmarks), "")
    if name not in benchmarks:
        known = ", ".join(benchmarks) or "none: the run's data has no test"
        raise FusionerError(f"the run in {directory} has no test {test!r}; there are: {known}")
    evaluation = evaluator(benchmarks[name], description=name)
    scores = dict(evaluation.scores)
    scenes, cases = evaluator.scenes(benchmarks[name]), []
    for rank, query in enumerate(evaluation.extremes(count), start=1):
        scene = scenes[query.scene]
        kind = "best" if rank <= min(count, len(scores)) else "worst"
        labels = labels_for(scene.labels, scene.names, query.target_names).astype(np.uint8)
        title = f"{kind}: {scene.key} (IoU {scores[query]:.2f})"
        cases.append(Case(scene.image, title, labels, query.names))
    return cases
