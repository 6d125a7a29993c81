"""The configuration of a run: frozen pydantic models, written beside every checkpoint and read back by one call.

A ``RunConfig`` has four sections: ``pair`` (the frozen encoders), ``fusion`` (the trainable model), ``data`` and
``training``. ``RunConfig.flat`` builds one from leaf names, with the presets and recipes of ``presets`` filled in.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fusionerlib.digests import read_json
from fusionerlib.errors import FusionerError, nearest
from fusionerlib.hub import find_checkpoint
from fusionerlib.presets import FINE_TUNING, PRESETS, RECIPES, resolved, undecided

Config = TypeVar("Config", bound=BaseModel)
MANY = 1_000_000_000
"""Most steps, scenes and the like: beyond any run, and far below where arithmetic or memory fails."""
SEEDS = 2**40
"""Largest seed: a training multiplies it by a million, and torch takes 64 bits."""


class Frozen(BaseModel):
    """Base of all sections: immutable; an unknown name, NaN, infinity, and True or False as a number are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_a_number(cls, given: Any, info: Any) -> Any:
        numbers = cls.model_fields[str(info.field_name)].annotation in (int, float)
        several = given if isinstance(given, list | tuple) else ()
        if (numbers and _is_truth_value(given)) or any(map(_is_truth_value, several)):
            raise ValueError("a number is expected, not true or false")
        return given


def _is_truth_value(given: Any) -> bool:
    # numpy's and torch's, too, by the name of their type.
    return isinstance(given, bool) or str(getattr(given, "dtype", "")).removeprefix("torch.") == "bool"


def _filled(given: Any, *, key: str, presets: dict[str, dict[str, Any]]) -> Any:
    if isinstance(given, dict):
        return {**presets.get(str(given.get(key, "")), {}), **given}
    return given


class PairConfig(Frozen):
    """The pair of frozen encoders.

    visual, text: names in the registry of encoders (`fusioner encoders`).
    visual_weights, text_weights: a file or folder in the published format; "" looks where `fusioner fetch` puts them.
    affinity: a second visual encoder that decides which patches of the first one are averaged (``encoders.affinity``;
    ProxyCLIP); its tokens then stand before those of the first. "" for none. affinity_weights: as visual_weights.
    visual_tokens, text_tokens: which of the encoder's token types to use, "" for its first (`fusioner encoders`).
    templates: prompt templates that a class name is put into; the name of a set, or a text file, one a line.
    synonyms: other words for class names; "", "everyday", or a JSON file that maps a name to a list of words.
    normalisation: mean and standard deviation of pixel values before the visual encoder. "encoder" uses those that it
    was trained with, "pascal" and "coco" the paper's own for these data sets.
    precision: number format of the encoders; auto is bfloat16 where the device multiplies it natively, else float32;
    it is replaced as ``TrainingConfig.mixed_precision`` is.
    compiled: whether the visual encoder runs through ``torch.compile``.
    """

    visual: str = "packaged"
    text: str = "packaged"
    visual_weights: str = ""
    text_weights: str = ""
    affinity: str = ""
    affinity_weights: str = ""
    visual_tokens: str = ""
    text_tokens: str = ""
    templates: str = "none"
    synonyms: str = ""
    normalisation: Literal["encoder", "pascal", "coco"] = "encoder"
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    compiled: bool = False


class FusionConfig(Frozen):
    """The trainable model between the frozen encoders and the logits. The defaults are the paper's (BMVC 2022).

    kind, the model:
        fusioner: a transformer over patch and text tokens together, decoder, cosine head (the paper).
        late: a transformer for each side, which meet only in the cosine head (the paper's baseline).
        cost_aggregation: convolutions over the similarity maps of patches and text tokens, one name at a time.
        lseg, spnet: heads that project patches into the space of the frozen text tokens.
        training_free: the cosine of patch and text token, without any parameter.

    preset: which named set of values the section started from (``PRESETS``).
    width: channels of the tokens inside the model; a multiple of heads, for cost_aggregation of 8.
    depth: transformer blocks; for cost_aggregation convolutions at the resolution of the patch grid.
    late_depth: blocks on each side of ``late``; 0 for half of depth, so that both kinds have the same budget.
    heads: attention heads. mlp_ratio: hidden channels of a block's MLP, in widths.
    dropout: on the text tokens inside the transformer blocks; for cost_aggregation on the guidance channels.
    temperature: cosines are divided by it. logit_bias: initial value of a learned bias on all logits, 0 for no bias.
    decoder_width: channels inside the decoder, 0 for width.
    decoder_scales: size of the feature map after each of the decoder's convolutions but the last, in patch grids.
    upsample: whether features or logits are resized to the size of the labels. subpixel, of cost_aggregation (the
    others take it as features): a convolution makes several positions of each to reach the next of decoder_scales,
    instead of bilinear resizing before it; for a factor of 2 it has a quarter of the operations.
    modality: whether a learned vector is added to all text tokens of ``fusioner`` and ``late`` (paper).
    similarity, of cost_aggregation: how patches and text tokens are compared. cosine: the last channels of a patch
    token are an embedding in the space of the text tokens. class_posteriors: those channels and the text tokens are
    distributions over the same classes. learned: a trained linear layer projects patches into the space of the text.
    guidance_channels, of cost_aggregation: channels computed from the patch tokens alone, the same for every name.
    examples, of cost_aggregation: whether names are also known by the labelled regions of the training images, and by
    regions that a user gives later (``models.examples``).
    confidence_rescaling, of cost_aggregation: at test time each name's positive logits are multiplied, and its negative
    ones divided, by exp(confidence_rescaling * mean similarity inside its predicted mask); 0 leaves them as they are.
    offset, of training_free: the cosine that gets the logit 0. 0.2 lies between the cosines of patches on and off the
    named object; it was not tuned on a test set.
    """

    preset: Literal["bmvc2022", "small", "modern"] = "bmvc2022"
    kind: Literal["fusioner", "late", "cost_aggregation", "lseg", "spnet", "training_free"] = "fusioner"
    width: int = Field(default=512, ge=8, le=16_384)
    depth: int = Field(default=12, ge=1, le=256)
    late_depth: int = Field(default=0, ge=0, le=256)
    heads: int = Field(default=8, ge=1, le=1024)
    mlp_ratio: int = Field(default=4, ge=1, le=64)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    temperature: float = Field(default=0.07, ge=1e-4, le=1e4)
    logit_bias: float = Field(default=0.0, ge=-1e4, le=1e4)
    decoder_width: int = Field(default=0, ge=0, le=16_384)
    decoder_scales: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(2, 4, 8), max_length=16)
    upsample: Literal["features", "logits", "subpixel"] = "features"
    modality: bool = True
    similarity: Literal["cosine", "class_posteriors", "learned"] = "cosine"
    guidance_channels: int = Field(default=16, ge=1, le=16_384)
    examples: bool = False
    confidence_rescaling: float = Field(default=0.0, ge=0.0, le=1e4)
    offset: float = Field(default=0.2, ge=-1e4, le=1e4)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        return _filled(given, key="preset", presets=PRESETS)

    @model_validator(mode="after")
    def _width_can_be_divided(self) -> "FusionConfig":
        if self.kind == "cost_aggregation":
            for leaf, width in (("width", self.width), ("decoder_width", self.decoder_width)):
                if width % 8:
                    raise ValueError(
                        f"{leaf} {width} of kind cost_aggregation must be a multiple of 8, its channel groups"
                    )
        if self.upsample == "subpixel" and self.kind == "cost_aggregation":
            for before, scale in pairwise((1, *self.decoder_scales)):
                if scale % before:
                    raise ValueError(
                        f"decoder_scales {self.decoder_scales} with upsample 'subpixel': {scale} must be a multiple of "
                        f"{before}, the scale before it"
                    )
        if self.kind in ("fusioner", "late") and self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class DataConfig(Frozen):
    """The images that train and test, and where their frozen features are kept.

    dataset: openmoji (drawn scenes), pascal (PASCAL-5i), coco (COCO-20i), photos (PASCAL VOC at root and COCO at coco
    together), fss1000, or folder (your own images and masks). root: its folder. coco: COCO's folder, for photos.
    camvid: folder of CamVid's street frames in the layout of one's own data, whose training images photos adds; None
    leaves them out.
    fold: which classes of pascal, coco and photos are held out of training; -1 for none (not for coco).
    held_out: names of folder and photos, such as ["cat"], that training does without, under any synonym.
    novel: the label that pixels of held-out classes get in training, background or ignore; "" for the protocol's own,
    background for pascal and coco (paper), ignore for photos and folder.
    names: what the text encoder is given for a class: words, as in English ("dining table"), or identifiers, as the
    data set spells them ("diningtable", as in the paper's runs).
    present_only: leave out listed images of coco that are not on disk, instead of stopping.
    features: folder of the stored features and text embeddings. store: their number format; int8 takes about half the
    bytes of float16.
    objects: pictograms that openmoji draws from, 0 for all. train_scenes: training scenes that openmoji draws.
    size: side of the input in pixels. eval_scenes: most scenes of a test.
    views: augmented copies of each training image, the first one not augmented.
    data_seed: of drawing and views.
    """

    dataset: Literal["openmoji", "pascal", "photos", "coco", "fss1000", "folder"] = "openmoji"
    root: Path = Path("data/openmoji")
    coco: Path = Path("data/coco")
    camvid: Path | None = None
    held_out: tuple[str, ...] = ()
    novel: Literal["", "ignore", "background"] = ""
    names: Literal["words", "identifiers"] = "words"
    present_only: bool = False
    features: Path = Path("data/features")
    store: Literal["float16", "int8"] = "float16"
    objects: int = Field(default=0, ge=0, le=MANY)
    fold: int = Field(default=0, ge=-1, le=3)
    size: int = Field(default=224, ge=32, le=8_192, multiple_of=32)
    train_scenes: int = Field(default=3000, ge=1, le=MANY)
    eval_scenes: int = Field(default=200, ge=1, le=MANY)
    views: int = Field(default=1, ge=1, le=10_000)
    data_seed: int = Field(default=0, ge=0, le=SEEDS)

    @model_validator(mode="after")
    def _names_can_be_held_out(self) -> "DataConfig":
        if self.held_out and self.dataset not in ("folder", "photos"):
            raise ValueError(f"held_out is for folder and photos, not for {self.dataset!r}: choose a fold instead")
        return self


PLACES = ("root", "coco", "camvid", "features")
"""Leaves of ``DataConfig`` that are folders: they differ between machines and do not change the results."""


class TrainingConfig(Frozen):
    """The optimisation. The defaults suit the preset ``small``; the recipe ``bmvc2022`` is the paper's.

    recipe: which named set of values the section started from (``RECIPES``).
    optimiser: adamw (paper), or muon: Muon for matrices and AdamW for the rest, which needs about half the steps, each
    of which takes a fifth longer on a CPU (``training.optimisers``).
    init: a trained checkpoint whose weights training starts from: packaged, a folder (of a checkpoint or of a run), the
    name of a run, or hf://...; "" for random weights. Without a preset the run takes the pair, the fusion and the
    recipe of that checkpoint, and without a recipe the learning rate and the rehearsal of ``FINE_TUNING``.
    rehearsal: weight of a second loss that keeps the names of ``init``: the cross-entropy between the model and that
    checkpoint for some of its names that these data do not have, on the training images. Running statistics of tokens
    then stay those of the checkpoint. 0 for none; without effect where these data have all its names.
    steps: optimiser steps; batches go on from one pass over the data into the next. epochs: passes over all (scene,
    name) pairs, the last batch of a pass is smaller where they do not fill it; 0 to train for ``steps``. Training
    records the steps that epochs came to. ``steps`` given without ``epochs`` drops a recipe's epochs.
    batch: samples a step; a sample is one (scene, name) pair. positives, negatives: most names
    of a sample that its scene shows, and names that it does not show. hard_negatives: share of the negatives that have
    a word in common with a positive. balanced: draw every name equally often, however many scenes show it.
    loss: cross-entropy of each pixel and name, alone or with soft Dice; focal weighs pixels by (1 - p)^2; softmax adds
    the cross-entropy between the names asked and none of them.
    loss_stride: the loss reads every n-th pixel in both directions.
    lr, final_lr: learning rate at the end of the warm-up, and at the end of a cosine. warmup, warmup_epochs: steps, or
    epochs, in which the learning rate rises linearly from 0. peak_in_warmup: the last step of the warm-up is at lr (the
    authors' runs); otherwise the step after it is.
    weight_decay, final_weight_decay: at the start and at the end of a cosine over all steps.
    decoder_constant: train the decoder with lr throughout and without weight decay (paper). decay_category: the vector
    that is added to all text tokens gets weight decay as a matrix does (the authors' runs), not none as a bias does.
    text_noise: length of the Gaussian noise added to each unit-length text token, as a root mean square; 0 for none.
    mixed_precision: number format of the model's matrix products while it trains; weights, similarities and losses stay
    in float32. auto is bf16 where the device multiplies it natively, else no; a ``RunContext`` puts the one of its
    device in its place, so that records and checkpoints never say auto.
    feed: stored trains on features that were computed once, of ``data.views`` views of each image; online opens and
    augments each image anew and runs the visual encoder in every step.
    augmentation: which data set's augmentation of the paper the online feed uses.
    validate_every, checkpoint_every: steps between validations, and between running checkpoints.
    seed: of initial weights, batches, dropout and noise.

    These change speed and memory, and results only by rounding. workers: processes that open images for the online
    feed, 0 for none. accumulate: parts of a batch whose gradients are summed one after the other, to save memory.
    channels_last: memory layout of convolutions. compile_fusion: run the model through ``torch.compile``, which needs a
    C++ compiler. tensorboard: write scalars to the folder ``tensorboard`` beside the running checkpoints.
    """

    recipe: Literal["small", "bmvc2022", "modern"] = "small"
    optimiser: Literal["adamw", "muon"] = "adamw"
    init: str = ""
    rehearsal: float = Field(default=0.0, ge=0.0, le=1e4)
    steps: int = Field(default=800, ge=1, le=MANY)
    epochs: int = Field(default=0, ge=0, le=1_000_000)
    batch: int = Field(default=16, ge=1, le=65_536)
    positives: int = Field(default=4, ge=1, le=253)
    negatives: int = Field(default=6, ge=0, le=65_536)
    hard_negatives: float = Field(default=0.5, ge=0.0, le=1.0)
    balanced: bool = False
    loss: Literal["bce", "bce+dice", "focal+dice", "bce+dice+softmax"] = "bce"
    loss_stride: int = Field(default=4, ge=1, le=8_192)
    lr: float = Field(default=1e-3, gt=0.0, le=1e3)
    final_lr: float = Field(default=2e-6, ge=0.0, le=1e3)
    warmup: int = Field(default=40, ge=0, le=MANY)
    warmup_epochs: int = Field(default=0, ge=0, le=1_000_000)
    weight_decay: float = Field(default=0.2, ge=0.0, le=1e3)
    final_weight_decay: float = Field(default=0.2, ge=0.0, le=1e3)
    decoder_constant: bool = False
    peak_in_warmup: bool = False
    decay_category: bool = False
    text_noise: float = Field(default=0.0, ge=0.0, le=1e3)
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    validate_every: int = Field(default=200, ge=1, le=MANY)
    checkpoint_every: int = Field(default=100, ge=1, le=MANY)
    feed: Literal["stored", "online"] = "stored"
    augmentation: Literal["pascal", "coco"] = "pascal"
    workers: int = Field(default=2, ge=0, le=1024)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    channels_last: bool = False
    compile_fusion: bool = False
    tensorboard: bool = False
    seed: int = Field(default=0, ge=0, le=SEEDS)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_recipe(cls, given: Any) -> Any:
        if isinstance(given, dict):
            if "steps" in given:
                given = {"epochs": 0, "warmup_epochs": 0, **given}
            elif "warmup" in given:
                given = {"warmup_epochs": 0, **given}
        return _filled(given, key="recipe", presets=RECIPES)


class RunConfig(Frozen):
    """Everything that determines a training run. ``flat`` builds one, ``changed`` derives another from it."""

    pair: PairConfig = PairConfig()
    fusion: FusionConfig = FusionConfig(preset="small")
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _leaves_fit_together(self) -> "RunConfig":
        posteriors = self.fusion.kind == "cost_aggregation" and self.fusion.similarity == "class_posteriors"
        if posteriors and self.training.text_noise:
            raise FusionerError(
                f"text_noise {self.training.text_noise} does not fit similarity 'class_posteriors': a distribution "
                "over classes with noise added is no distribution; set text_noise = 0, or similarity = 'learned'"
            )
        if self.training.rehearsal and not self.training.init:
            raise FusionerError(
                f"rehearsal {self.training.rehearsal} needs a checkpoint whose names it keeps: set init = 'packaged', "
                "or rehearsal = 0"
            )
        return self

    @classmethod
    def flat(cls, **leaves: Any) -> "RunConfig":
        """The run with these leaf values (``steps=20, depth=4``): each goes to the section that has a leaf of its name.

        A preset implies the recipe of its own name, and the tokens, templates and synonyms that it needs from the
        packaged pair; explicit values win. A leaf that is None counts as not given. With neither preset nor recipe the
        run is ``DEMO``. With ``init`` and no preset it has the pair, the fusion and the recipe of that checkpoint, and
        without a recipe the leaves ``FINE_TUNING``.
        Raises FusionerError naming an unknown or ill-typed value and the nearest known name.
        """
        homes = cls.leaf_sections()
        for leaf, value in leaves.items():
            if leaf not in homes:
                raise FusionerError(f"unknown parameter {leaf!r} = {value!r}: {nearest(leaf, sorted(homes))}")
        nested: dict[str, dict[str, Any]] = {name: {} for name in cls.model_fields}
        given = {leaf: value for leaf, value in leaves.items() if value is not None}
        if given.get("init") and "preset" not in given:
            given = {**inherited(str(given["init"])), **({} if "recipe" in given else FINE_TUNING), **given}
        for leaf, value in resolved(given).items():
            nested[homes[leaf]][leaf] = value
        return checked(cls, nested)

    @classmethod
    def leaf_sections(cls) -> dict[str, str]:
        """The section of every leaf name."""
        return {leaf: name for name, field in cls.model_fields.items() for leaf in _section(field).model_fields}

    @property
    def leaves(self) -> dict[str, Any]:
        """Every leaf by its name alone, as ``flat`` takes them."""
        return {leaf: value for _, section in self for leaf, value in section}

    def changed(self, **leaves: Any) -> "RunConfig":
        """A copy of this run with some leaves changed; a leaf that is None stays as it is.

        A preset replaces the whole section ``fusion``, the recipe, and the tokens of the packaged pair; a recipe
        replaces all leaves that any recipe sets. Explicit values win. Raises FusionerError as ``flat`` does.
        """
        new = {leaf: value for leaf, value in leaves.items() if value is not None}
        return self.flat(**{**undecided(self.leaves, fusion=FusionConfig.model_fields, new=new), **new})


NOT_INHERITED = frozenset({"visual_weights", "text_weights", "affinity_weights", "precision", "compiled"})
"""Leaves of ``PairConfig`` that say where weights lie and how fast they run."""
ADJUSTABLE = frozenset({"preset", "dropout", "logit_bias", "confidence_rescaling", "offset"})
"""Leaves of ``FusionConfig`` that may differ from those of the checkpoint in ``init``: its weights fit all the same."""


def without_examples(run: Mapping[str, Any]) -> dict[str, Any]:
    """``run`` of a checkpoint's ``config.json``; one that does not say whether it has examples is older than they."""
    return {**run, "fusion": {"examples": False, **run["fusion"]}}


def inherited(init: str) -> dict[str, Any]:
    """The leaves that a run takes from the checkpoint ``init``: pair, fusion, recipe, spelling of names and input size.

    Raises FusionerError where there is no such checkpoint, or its config is not one of this version.
    """
    folder = find_checkpoint(init)
    try:
        held = read_json(folder / "config.json", what="a checkpoint's config", remedy="copy it again")
        run = checked(RunConfig, without_examples(held["run"]))
    except (KeyError, TypeError, FusionerError) as error:
        raise FusionerError(
            f"init {init!r}: {folder / 'config.json'} is not the config of a checkpoint of this version ({error}): "
            f"convert it with `fusioner convert {folder}`, or train without init"
        ) from error
    pair = {leaf: value for leaf, value in run.pair if leaf not in NOT_INHERITED}
    return {**pair, **dict(run.fusion), "recipe": run.training.recipe, "names": run.data.names, "size": run.data.size}


def _section(field: Any) -> type[BaseModel]:
    section = field.annotation
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return section


def checked(model: type[Config], values: dict[str, Any]) -> Config:
    """``model`` built from ``values``. Raises FusionerError naming each value that does not fit."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or model.__name__} = {problem['input']!r}: {problem['msg']}"
            for problem in error.errors()
        )
        raise FusionerError(f"{model.__name__} can't be built: {problems}") from error
