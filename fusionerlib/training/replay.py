"""A step that met NaN or infinity: the file that replays it, what to do about it, and the replay.

The file holds the model before the step, the batch, its text tokens and the state of torch's generator, so the step
gives the same numbers again, on a machine without the data set and the encoders.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusionerlib import checkpoints
from fusionerlib.config import RunConfig, checked
from fusionerlib.datasets.sampling import Sample
from fusionerlib.digests import refuse_pipe
from fusionerlib.encoders.registry import load_text
from fusionerlib.errors import FusionerError
from fusionerlib.features.store import tensors_digest
from fusionerlib.features.text import TextEmbeddingCache
from fusionerlib.files import replacing
from fusionerlib.models import SegmentationModel, build
from fusionerlib.training.batch_sources import Batch, BatchSource, StoredBatchSource
from fusionerlib.training.distributed import Distributed
from fusionerlib.training.rehearsal import Rehearsal
from fusionerlib.training.start import starting_point
from fusionerlib.training.steps import NonFiniteError, Stage, StepInputs, Stepper, input_stage

SHOWN = 32
"""Scenes that a message names at most."""


@dataclass(frozen=True)
class Replayed:
    """What a replay found. stage: where NaN or infinity appears first, "" where everything is finite; detail: of it.

    recorded: the stage that the training found. step: from 1. scenes: index and key of each image of the batch, with
    the names asked of it. culprits: those of ``scenes`` whose own loss is not finite, or whose features are not.
    """

    step: int
    recorded: str
    stage: str
    detail: str
    scenes: tuple[str, ...]
    culprits: tuple[str, ...]


def stopped(
    error: NonFiniteError,
    *,
    run: RunConfig,
    source: BatchSource,
    model: SegmentationModel,
    step: int,
    directory: Path,
    kept: Path | None,
    process: int = 0,
) -> FusionerError:
    """Write the file that replays the step (from 1) of ``error`` into ``directory``; returns the error to raise.

    kept: the last running checkpoint, None where there is none yet. process: index of this process.
    """
    scenes = _described(source, error.inputs.batch.samples)
    batch = ", ".join(scenes[:SHOWN]) + (f" and {len(scenes) - SHOWN} more" if len(scenes) > SHOWN else "")
    state = f"the running checkpoint {kept} is kept" if kept else "there is no running checkpoint yet"
    told = f"training stopped in step {step}, before it changed the weights: {error.stage} not finite ({error.detail})"
    file = directory / f"stopped-{step:07d}{f'-process-{process}' if process else ''}.safetensors"
    if error.stage == "weights":  # they are not written anywhere
        replay = "run again to see it happen, it goes on from there"
    else:
        try:
            _write(file, error, run=run, model=model, step=step, scenes=scenes)
            replay = f"`fusioner replay {file}` does the step again and names the images that it comes from"
        except (FusionerError, OSError, SafetensorError) as problem:
            replay = f"the file that replays the step can't be written ({problem})"
    return FusionerError(f"{told}; batch: {batch}; {state}; {replay}. {_remedy(error, run, source, directory)}")


def _remedy(error: NonFiniteError, run: RunConfig, source: BatchSource, directory: Path) -> str:
    if error.stage == "features":
        if isinstance(source, StoredBatchSource):
            return (
                f"The stored features are the cause, not the learning rate: delete {source.scenes.store.folder} and "
                "run again, they are computed again"
            )
        return (
            "The visual encoder gives such features, not the learning rate: open the images named above, leave out "
            f"those that are broken, and set precision to float32 (now {run.pair.precision})"
        )
    if error.stage == "text tokens":
        return (
            "The text encoder gives such tokens, not the learning rate: rename the names of this batch that it can't "
            f"encode, set precision to float32 (now {run.pair.precision}), and delete the files words-* in "
            f"{run.data.features}"
        )
    mixed = run.training.mixed_precision
    precise = "" if mixed == "no" else f", or mixed_precision = 'no' (now {mixed!r})"
    return (
        f"The same settings stop at the same step again. Set a lower lr (now {run.training.lr:g}){precise}, and give "
        f"that training another folder, or delete {directory} first: what is in it goes on only with the settings that "
        "it began with"
    )


def replay(file: Path | str, *, device: str = "cpu") -> Replayed:
    """Do the step in ``file`` again and find where it is not finite.

    Raises FusionerError where the file is no such step or damaged, and where a training with ``init`` no longer finds
    that checkpoint.
    """
    facts, tensors = _read(Path(file))
    try:
        return _replayed(file, facts, tensors, device)
    except FusionerError:
        raise
    # Tensors of any shapes, in a file whose digest fits, make any operation fail.
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise FusionerError(f"{file} can't be done again ({_one_line(error)}): {REMEDY}") from error


def _replayed(file: Path | str, facts: dict[str, Any], tensors: dict[str, Tensor], device: str) -> Replayed:
    try:
        run = checked(RunConfig, facts["run"])
        samples = [Sample(int(scene), tuple(names)) for scene, names in facts["samples"]]
        labelled = [tuple(names) for names in facts["names"]]
        widths = {side: checkpoints.token_width(facts[side]) for side in ("visual_width", "text_width")}
        batch = Batch(tensors["tokens"], tensors["labels"], labelled, samples)
        inputs = StepInputs(batch, tensors["text"], tensors["names_mask"], tensors.get("rehearsed"), tensors["rng"])
        example_names = tuple(map(str, facts.get("example_names", ())))
        step, recorded, scenes = int(facts["step"]), str(facts["stage"]), tuple(map(str, facts["scenes"]))
        _check_shapes(inputs, scenes=len(scenes), channels=widths["visual_width"])
        if step < 1 or recorded not in get_args(Stage):
            raise ValueError(f"step {step}, stopped at {recorded!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise FusionerError(f"{file} is no step that a training stopped in ({error!r}): {REMEDY}") from error
    run = run.model_copy(update={"training": run.training.model_copy(update={"compile_fusion": False})})
    distributed = Distributed.joined(device)
    prefix = "model."
    state = {key.removeprefix(prefix): part for key, part in tensors.items() if key.startswith(prefix)}
    if problem := checkpoints.mismatch(run.fusion, state, example_names, **widths):
        raise FusionerError(
            f"{file} holds another model than this version builds from its config ({problem}): replay it with the "
            "version of the library that wrote it"
        )
    model = build(run.fusion, **widths)
    model.load_weights(state, example_names)
    model.to(distributed.device).train()
    # Its tokens are in the file: this encoder, which has no weights, is never asked for one that matters.
    cache = TextEmbeddingCache(encoder=load_text("arbitrary"), templates=["{}"])
    rehearsal = _rehearsal(run, cache, inputs)
    stepper = Stepper(model, run=run, text_cache=cache, distributed=distributed, rehearsal=rehearsal)
    found, detail = input_stage(inputs) or "", ""
    if not found:
        torch.manual_seed((run.training.seed + 1) * 1_000_003 + step - 1)
        torch.set_rng_state(inputs.rng)
        try:
            stepper.check(float(stepper.backward(inputs, total=len(samples))), inputs)
        except NonFiniteError as error:
            found, detail = error.stage, error.detail
    culprits = tuple(scene for place, scene in enumerate(scenes) if _broken(stepper, inputs, place))
    return Replayed(step, recorded, found, detail, scenes, culprits)


def _check_shapes(inputs: StepInputs, *, scenes: int, channels: int) -> None:
    """Raise ValueError where the parts of a step do not belong together."""
    batch, mask, count = inputs.batch, inputs.names_mask, len(inputs.batch.samples)
    expected = {
        "tokens": (batch.tokens, torch.float32, (count, *batch.tokens.shape[1:3], channels)),
        "labels": (batch.labels, torch.uint8, (count, *batch.labels.shape[1:3])),
        "names_mask": (mask, torch.bool, (count, *mask.shape[1:2])),
        "text": (inputs.text, torch.float32, (count, *mask.shape[1:2], *inputs.text.shape[2:3])),
        "rng": (inputs.rng, torch.uint8, tuple(torch.get_rng_state().shape)),
    }
    for name, (tensor, kind, shape) in expected.items():
        if tensor.dtype != kind or tuple(tensor.shape) != shape or not tensor.numel():
            raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, of {count} images")
    if not len(batch.names) == scenes == count:
        raise ValueError(f"{scenes} images are listed, with the names of {len(batch.names)}, and {count} were asked")


REMEDY = "give a file stopped-*.safetensors that a training wrote, or copy it again"


@torch.no_grad()
def _broken(stepper: Stepper, inputs: StepInputs, place: int) -> bool:
    """Whether the features of one image of the batch, or its loss alone, are not finite."""
    row = slice(place, place + 1)
    part = inputs.batch.part(row)
    loss = stepper.loss(part, inputs.text[row], inputs.names_mask[row], inputs.rehearsed)
    return not (bool(torch.isfinite(part.tokens).all()) and bool(torch.isfinite(loss)))


def _rehearsal(run: RunConfig, cache: TextEmbeddingCache, inputs: StepInputs) -> Rehearsal | None:
    start = None if inputs.rehearsed is None else starting_point(run)
    if start is None:
        return None
    config = run.training
    device = torch.device("cpu")
    return Rehearsal(start, vocabulary=(), text_cache=cache, weight=config.rehearsal, seed=config.seed, device=device)


def _described(source: BatchSource, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Each sample as its scene's index, key and the names asked of it."""
    keys: dict[int, str] = {}
    for index in {sample.scene for sample in samples}:
        if isinstance(source, StoredBatchSource):
            keys[index] = source.scenes.entries[index].key
        elif (scenes := getattr(source, "scenes", None)) is not None:
            keys[index] = scenes[index].key
    return tuple(
        f"{sample.scene} ({keys.get(sample.scene, 'no key')}: {', '.join(sample.names)})" for sample in samples
    )


def _write(
    file: Path, error: NonFiniteError, *, run: RunConfig, model: SegmentationModel, step: int, scenes: Sequence[str]
) -> None:
    inputs = error.inputs
    tensors: dict[str, Tensor] = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {"tokens": inputs.batch.tokens, "labels": inputs.batch.labels, "rng": inputs.rng}
    tensors |= {"text": inputs.text, "names_mask": inputs.names_mask}
    if inputs.rehearsed is not None:
        tensors["rehearsed"] = inputs.rehearsed
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    facts = {
        "run": run.model_dump(mode="json"),
        "step": step,
        "stage": error.stage,
        "scenes": list(scenes),
        "names": inputs.batch.names,
        "samples": [[sample.scene, sample.names] for sample in inputs.batch.samples],
        "visual_width": model.visual_width,
        "text_width": model.text_width,
        "example_names": model.example_names,
    }
    text = json.dumps(facts)
    with replacing(file) as part:
        save_file(tensors, part, metadata={"facts": text, "digest": _digest(text, tensors)})


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        refuse_pipe(file)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(metadata["facts"], tensors):
            raise ValueError("its digest is another one")
        return dict(json.loads(metadata["facts"])), tensors
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FusionerError(
            f"{file} can't be read as a step that a training stopped in ({_one_line(error)}): {REMEDY}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _digest(facts: str, tensors: dict[str, Tensor]) -> str:
    named = {**tensors, "facts": torch.frombuffer(bytearray(facts.encode()), dtype=torch.uint8)}
    return tensors_digest({name: tensor.reshape(-1) if not tensor.ndim else tensor for name, tensor in named.items()})
