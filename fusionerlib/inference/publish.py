"""What leaves the machine with a checkpoint: a config without paths of this machine, and the model card."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from fusionerlib import checkpoints
from fusionerlib.checkpoints import Checkpoint
from fusionerlib.config import PLACES, PairConfig, RunConfig
from fusionerlib.encoders.base import EncoderSpec
from fusionerlib.encoders.prompts import EVERYDAY
from fusionerlib.encoders.registry import get_spec
from fusionerlib.encoders.weights import licence_notice
from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from fusionerlib.name_forms import words_by_hand

CARD = "README.md"
HEAD = "---\nlibrary_name: fusioner"
"""How every card begins."""
PROTOCOL = ("recipe", "steps", "batch", "positives", "negatives", "loss", "lr", "text_noise", "feed", "seed")
"""Leaves of ``TrainingConfig`` that the card states."""


class Card(TypedDict, total=False):
    """What a model card says beside what the checkpoint holds.

    title: the heading. data: a sentence about the training images; without it the card names the kind of data set only.
    licence: an identifier of the hub, such as "mit". figures: values by name; a float is written with three digits.
    """

    title: str
    data: str
    licence: str
    figures: Mapping[str, Any] | None


def write(folder: Path, checkpoint: Checkpoint, **card: Unpack[Card]) -> None:
    """Write ``checkpoint``, its run without paths of this machine, and its card into ``folder``.

    The title is the folder's name if it is not given or "". Raises FusionerError as ``plain_run`` does, and for a
    folder that has another card.
    """
    if (folder / CARD).exists() and not (folder / CARD).read_bytes().startswith(HEAD.encode()):
        raise FusionerError(f"{folder / CARD} is not of a checkpoint, and would be replaced: choose another folder")
    run = plain_run(checkpoint.run)
    text = model_card(
        replace(checkpoint, run=run),
        title=card.get("title") or folder.resolve().name,
        data=card.get("data", ""),
        licence=card.get("licence", ""),
        figures=card.get("figures"),
    )
    names, parents = checkpoint.trained_names, checkpoint.parents
    checkpoints.save(folder, model=checkpoint.model, run=run, trained_names=names, parents=parents)
    write_text(folder / CARD, text)


def plain_run(run: RunConfig) -> RunConfig:
    """``run`` without paths of this machine: folders of data become ``data/root`` and so on, paths of weights "".

    Weights are then looked for where `fusioner fetch` puts them. Raises FusionerError where templates, synonyms or a
    table of vectors are files of this machine: without them the checkpoint could not be used.
    """
    files = {leaf: value for leaf, value in _files(run.pair).items() if value}
    if files:
        leaf, value = next(iter(files.items()))
        raise FusionerError(
            f"{leaf} = {value!r} is a file of this machine, which a published checkpoint can't name: train with a "
            "registered text encoder, set of templates and set of synonyms (`fusioner encoders`), or hand the "
            "checkpoint's folder on together with that file"
        )
    places: dict[str, Any] = {place: Path("data") / place for place in PLACES if getattr(run.data, place) is not None}
    init = run.training.init
    init = Path(init).name if Path(init).is_absolute() or Path(init).exists() else init
    return run.model_copy(
        update={
            "pair": run.pair.model_copy(
                update=dict.fromkeys(("visual_weights", "text_weights", "affinity_weights"), "")
            ),
            "data": run.data.model_copy(update=places),
            "training": run.training.model_copy(update={"init": init}),
        }
    )


def _files(pair: PairConfig) -> dict[str, str]:
    named = {leaf: getattr(pair, leaf) for leaf in ("templates", "synonyms")}
    found = {leaf: value for leaf, value in named.items() if Path(value).suffix or os.sep in value}
    return found | ({"text": pair.text} if pair.text.startswith("vectors:") else {})


def model_card(
    checkpoint: Checkpoint, *, title: str, data: str = "", licence: str = "", figures: Mapping[str, Any] | None = None
) -> str:
    """The card of ``checkpoint`` as Markdown: data, trained names, protocol, figures, encoders and their licences.

    The other parameters are those of ``Card``.
    """
    run = checkpoint.run
    head = [HEAD, "pipeline_tag: image-segmentation"]
    head += [f"license: {licence}"] if licence else []
    head += ["tags:", "- open-vocabulary", "- semantic-segmentation", "---"]
    training = run.training.model_dump(mode="json")
    protocol = ", ".join(f"{leaf} = {training[leaf]}" for leaf in PROTOCOL)
    names = ", ".join(checkpoint.trained_names) or "unknown"
    learnt = sorted(set(checkpoint.model.example_names) - set(checkpoint.trained_names))
    names += f"\n\nLearnt later from examples, without training: {', '.join(learnt)}." if learnt else ""
    address = f'"hf://{title}"' if "/" in title else '"PATH/OF/THIS/FOLDER"'
    parts = [
        "\n".join(head),
        f"# {title}",
        f"Open-vocabulary semantic segmentation: a fusion module ({run.fusion.kind}, {_count(checkpoint)} trained "
        "parameters) over frozen encoders. Weights are safetensors, the config is JSON.",
        f"```python\nfrom fusionerlib import Segmenter\n\nsegmenter = Segmenter.load({address})\n```",
        f"## Data\n\n{data or f'Data set of kind `{run.data.dataset}`; its author gave no description.'}",
        f"## Names of training ({len(checkpoint.trained_names)})\n\n{names}\n\nAny other name can be asked too; "
        "training had no mask of it.",
        *_words_by_hand(run.pair),
        f"## Protocol\n\nImages resized to {run.data.size} pixels; {protocol}. {_parents(checkpoint)}",
        f"## Figures\n\n{_figures(figures)}",
        "## Frozen encoders\n\n"
        + "\n".join(f"- {licence_notice(spec)}; {spec.pretraining}" for spec in _specs(run.pair)),
    ]
    return "\n\n".join(parts) + "\n"


def _specs(pair: PairConfig) -> list[EncoderSpec]:
    visual = [get_spec("visual", name) for name in (pair.visual, pair.affinity) if name]
    return [*visual, get_spec("text", pair.text)]


def _words_by_hand(pair: PairConfig) -> list[str]:
    if pair.synonyms != EVERYDAY:
        return []
    return [
        f"## Words written by hand\n\nThe set of synonyms `{EVERYDAY}` decides what is encoded for these names.\n\n"
        f"{words_by_hand()}"
    ]


def _parents(checkpoint: Checkpoint) -> str:
    found = " from ".join(f"`{parent.checkpoint}` (sha256 {parent.sha256})" for parent in checkpoint.parents)
    return f"Training started from {found}." if found else "Training started from random weights."


def _count(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.model.trainable()['total']:,}"


def _figures(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return "None were given."
    rows = [
        f"| {name} | {value:.3f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in figures.items()
    ]
    return "\n".join(["| figure | value |", "|---|---|", *rows])
