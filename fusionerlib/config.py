"""Named fusion modules and optimisations: what each changes from the defaults of the config.

Configuration is data: frozen pydantic models, written beside every checkpoint and read back by one call.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fusionerlib.errors import FusionerError, nearest

PRESETS: dict[str, dict[str, Any]] = {
    "bmvc2022": {},
    "small": {
        "width": 192,
        "depth": 2,
        "heads": 6,
        "dropout": 0.1,
        "logit_bias": -3.0,
        "decoder_width": 96,
        "decoder_scales": (2,),
        "upsample": "logits",
    },
    "modern": {
        "kind": "maps",
        "likeness": "classes",
        "evidence": 1.0,
        "width": 48,
        "depth": 2,
        "dropout": 0.1,
        "logit_bias": -2.0,
        "decoder_scales": (2,),
    },
}
"""Named fusion modules: what each changes from the paper's table (the defaults of ``FusionConfig``)."""

RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "bmvc2022": {
        "epochs": 510,
        "warmup_epochs": 10,
        "batch": 32,
        "feed": "online",
        "positives": 1,
        "negatives": 0,
        "loss_stride": 1,
        "weight_decay": 0.01,
        "final_weight_decay": 0.4,
        "decoder_constant": True,
    },
    "modern": {
        "batch": 12,
        "positives": 3,
        "negatives": 3,
        "hard_negatives": 0.0,
        "loss": "bce+dice",
        "lr": 2e-3,
        "mixed_precision": "bf16",
        "warmup": 30,
        "weight_decay": 0.05,
        "final_weight_decay": 0.05,
    },
}
"""Named optimisations: what each changes from the defaults of ``TrainingConfig``."""

TEMPLATES = {"templates": "eight"}
"""Prompt templates where neither the leaves nor the preset name any."""

DEMO: dict[str, Any] = {
    **TEMPLATES,
    "depth": 1,
    "hard_negatives": 0.75,
    "loss": "bce+dice",
    "text_noise": 0.7,
    "steps": 880,
}
"""What suits the drawn scenes better than ``small`` as it is: every run with neither preset nor recipe."""

TOKENS: dict[str, dict[str, str]] = {
    "modern": {
        "visual_tokens": "class_posteriors",
        "text_tokens": "class_posteriors",
        "templates": "none",
        "synonyms": "everyday",
    },
}
"""How a preset reads the packaged pair, where that is not the pair's first way."""

READING = frozenset(leaf for tokens in TOKENS.values() for leaf in tokens)
"""Leaves of ``PairConfig`` that a preset decides for the packaged pair."""

INPUTS: dict[str, dict[str, dict[str, str]]] = {
    "bmvc2022": {
        name: {"templates": "openai", "names": "identifiers", "normalisation": name, "augmentation": name}
        for name in ("pascal", "coco")
    },
}
"""By recipe and data set, what the encoders are given in the paper's own runs (docs/protocol.md says what differs)."""

OPTIMISATION = frozenset(leaf for recipe in RECIPES.values() for leaf in recipe) | {"text_noise"}
"""Leaves of ``TrainingConfig`` that a recipe, or ``DEMO``, decides."""


def resolved(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """``leaves`` with what their preset and recipe bring beside the sections of their own; what is given wins.

    A preset brings the recipe of its own name, and how it reads the packaged pair. A recipe brings what it gives the
    encoders of a data set (``INPUTS``). With neither preset nor recipe it is ``DEMO`` on the preset ``small``. A table
    of vectors takes no templates, since it was made with one.
    """
    given = {"preset": "small", **leaves}
    if str(given.get("text", "")).startswith("vectors:"):
        given = {"templates": "none", **given}
    if not leaves.keys() & {"preset", "recipe"}:
        return {**DEMO, **given}
    preset = str(given["preset"])
    if preset in RECIPES:
        given = {"recipe": preset, **given}
    given = {**_inputs(given), **given}
    # Another model than the preset's, or another pair, reads tokens in a way of its own.
    own = {"visual": "packaged", "text": "packaged"}
    own |= {leaf: PRESETS.get(preset, {}).get(leaf, "") for leaf in ("kind", "likeness")}
    as_it_is = all(given.get(leaf, value) == value for leaf, value in own.items())
    return {**TEMPLATES, **(TOKENS.get(preset, {}) if as_it_is else {}), **given}


def _inputs(leaves: Mapping[str, Any]) -> dict[str, str]:
    return INPUTS.get(str(leaves.get("recipe")), {}).get(str(leaves.get("dataset")), {})


def undecided(leaves: Mapping[str, Any], *, fusion: Collection[str], new: Mapping[str, Any]) -> dict[str, Any]:
    """``leaves`` of a whole run without those that the ``new`` ones decide: a preset, a recipe, a number of steps.

    fusion: the leaves of ``FusionConfig``, all of which are a preset's.
    """
    decided: set[str] = set()
    if "preset" in new:
        decided |= {*fusion, "recipe"}
        decided |= READING if leaves["visual"] == leaves["text"] == "packaged" else set()
    if decided or "recipe" in new:
        decided |= OPTIMISATION
    recipe = new.get("recipe", new.get("preset", leaves["recipe"]))
    if decided >= OPTIMISATION and (leaves["epochs"] or "epochs" in RECIPES.get(recipe, {})):
        decided |= {"steps"}
    # What a recipe gives the encoders goes with it, and with the data set that it is for.
    inputs = [_inputs(leaves), _inputs({**leaves, **new, "recipe": recipe})]
    if inputs[0] != inputs[1]:
        decided |= {leaf for given in inputs for leaf in given}
    if "steps" in new:
        decided |= {"epochs", "warmup_epochs"}
    elif "warmup" in new:
        decided |= {"warmup_epochs"}
    return {leaf: value for leaf, value in leaves.items() if leaf not in decided}


Config = TypeVar("Config", bound=BaseModel)


class Frozen(BaseModel):
    """A section of a config: immutable, and a name that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _filled(given: Any, *, key: str, presets: dict[str, dict[str, Any]]) -> Any:
    if isinstance(given, dict):
        return {**presets.get(str(given.get(key, "")), {}), **given}
    return given


class PairConfig(Frozen):
    """Which frozen encoders are fused.

    visual_weights, text_weights: a file or folder in the published format, "" for where `fusioner fetch` puts them.
    visual_tokens, text_tokens: which of an encoder's ways of taking tokens, "" for its first (`fusioner encoders`).
    templates: a set's name or a text file, a template a line. synonyms: "" or a JSON file, name to list of words.
    normalisation: mean and standard deviation of pixel values before the visual encoder. "encoder" takes those that it
    was trained with, "pascal" and "coco" the paper's own for these data sets.
    precision, compiled: how the towers run; tokens are the same up to rounding.
    """

    visual: str = "packaged"
    text: str = "packaged"
    visual_weights: str = ""
    text_weights: str = ""
    visual_tokens: str = ""
    text_tokens: str = ""
    templates: str = "none"
    synonyms: str = ""
    normalisation: Literal["encoder", "pascal", "coco"] = "encoder"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compiled: bool = False


class FusionConfig(Frozen):
    """The trainable module. The defaults are the paper's (BMVC 2022); a preset changes some of them.

    dropout: on the word tokens inside the fusion blocks. logit_bias: start of a learned bias on all logits, 0 for none.
    late_depth: blocks on each side of late fusion; 0 takes half of ``depth``. decoder_scales: the feature map's size
    after each of the decoder's convolutions but the last, in token grids. decoder_width: channels inside the decoder; 0
    takes ``width``. upsample: whether features or logits are resized to the image.
    Kind ``maps`` reads depth as convolutions at the token grid, and one more at each of decoder_scales. Its own are
    context, channels that no name has a part in; likeness, how patches are compared with words: tokens that end in the
    words' space, by cosine or as distributions over classes, or a learned linear map into it; presence, whether a
    learned score of the whole image is added to a name's logits; and evidence: outside training a name's logits are
    multiplied by e to so many times the mean likeness under its own mask.
    modality: whether the words of ``fusioner`` and ``late`` carry the learned vector that patches have not (paper).
    The baselines read little: ``lseg`` temperature, logit_bias, upsample and the decoder's two (``width`` where
    decoder_width is 0), ``spnet`` logit_bias alone, ``similarity`` temperature and offset, the cosine that is on the
    fence: 0.2 lies between what patches on and off a named thing have, and is tuned to no test.
    """

    preset: Literal["bmvc2022", "small", "modern"] = "bmvc2022"
    kind: Literal["fusioner", "late", "maps", "lseg", "spnet", "similarity"] = "fusioner"
    width: int = Field(default=512, ge=8)
    depth: int = Field(default=12, ge=1)
    late_depth: int = Field(default=0, ge=0)
    heads: int = Field(default=8, ge=1)
    mlp_ratio: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    temperature: float = Field(default=0.07, gt=0.0)
    logit_bias: float = 0.0
    decoder_width: int = Field(default=0, ge=0)
    decoder_scales: tuple[int, ...] = (2, 4, 8)
    upsample: Literal["features", "logits"] = "features"
    context: int = Field(default=16, ge=1)
    likeness: Literal["cosine", "classes", "learned"] = "cosine"
    presence: bool = False
    evidence: float = Field(default=0.0, ge=0.0)
    modality: bool = True
    offset: float = 0.2

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        return _filled(given, key="preset", presets=PRESETS)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "FusionConfig":
        if self.kind == "maps" and self.width % 8:
            raise ValueError(f"width {self.width} of kind maps must be a multiple of 8, its groups of channels")
        if self.kind in ("fusioner", "late") and self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class DataConfig(Frozen):
    """Which scenes train and test, and where their frozen features are kept.

    fold: read by PASCAL-5i, COCO-20i (``coco``) and photos only; -1 holds no class out (not COCO-20i). novel: what the
    pixels of the fold's own classes are to training there; "" takes each protocol's own, background for the first two
    (paper), ignored for photos. names: what the text encoder is given for a class, English words ("dining table") or
    the data set's own identifier ("diningtable", as in the paper's runs). present_only: COCO-20i goes on without the
    listed images that are not on disk. objects, train_scenes: read by OpenMoji only (objects 0 draws all there are).
    coco: read by photos only, which train on PASCAL VOC at ``root`` and COCO at ``coco`` together.
    views: augmented copies of each training image, the plain one first. mosaics, pastes: scenes of four training
    images, side by side or copied onto the first, beside the images themselves; photos only. eval_scenes: at most so
    many a test.
    store: the numbers that features are kept in; int8 takes about half the bytes of float16.
    """

    dataset: Literal["openmoji", "pascal", "photos", "coco", "fss1000", "folder"] = "openmoji"
    root: Path = Path("data/openmoji")
    coco: Path = Path("data/coco")
    novel: Literal["", "ignore", "background"] = ""
    names: Literal["words", "identifiers"] = "words"
    present_only: bool = False
    features: Path = Path("data/features")
    store: Literal["float16", "int8"] = "float16"
    objects: int = Field(default=0, ge=0)
    fold: int = Field(default=0, ge=-1, le=3)
    size: int = Field(default=224, ge=32, multiple_of=32)
    train_scenes: int = Field(default=3000, ge=1)
    eval_scenes: int = Field(default=200, ge=1)
    views: int = Field(default=1, ge=1)
    mosaics: int = Field(default=0, ge=0)
    pastes: int = Field(default=0, ge=0)
    data_seed: int = Field(default=0, ge=0)


PLACES = ("root", "coco", "features")
"""Leaves of ``DataConfig`` that say where files lie, which does not decide what a run is."""


class TrainingConfig(Frozen):
    """The optimisation. One sample is one (scene, name) pair, with more names of the scene and absent ones beside it.

    The defaults suit the ``small`` fusion; the recipe ``bmvc2022`` is the paper's. final_weight_decay is reached from
    weight_decay by a cosine, as final_lr is from lr; decoder_constant keeps lr and no decay for the decoder (paper).
    text_noise: standard deviation of the Gaussian noise on unit-length text tokens, over all of a token's channels
    together.
    epochs: passes over all (scene, name) pairs, the last batch of each pass smaller where they do not fill it; with 0
    there are ``steps`` full batches, which go on from one pass into the next. warmup, warmup_epochs: steps, or epochs,
    in which the learning rate rises from 0 to lr, the last one at lr. Training writes the steps that it made of epochs
    into its records. ``steps`` given without ``epochs`` drops a recipe's epochs.
    balanced: every name is drawn as often as any other, however many scenes show it. loss_stride: the loss
    sees every n-th pixel, both ways. ema: decay a step of a running average of the weights, which is what training
    returns; 0 for none. mixed_precision: number format of the fusion's products while it trains; weights, likenesses
    and losses stay in float32.
    feed: stored trains on features that were computed once, of ``data.views`` views of each image; online opens and
    augments each image anew (``augmentation``: the paper's, for either data set) in ``workers`` processes, 0 for none,
    and takes it through the frozen tower. The number of workers changes nothing but the speed.
    Nor do these, up to rounding: accumulate takes a batch in so many parts, for a smaller memory; channels_last lays
    out convolutions pixel by pixel; compile_fusion is torch.compile, which needs a C++ compiler.
    tensorboard: whether scalars go to the folder ``tensorboard`` beside the running checkpoints.
    """

    recipe: Literal["small", "bmvc2022", "modern"] = "small"
    steps: int = Field(default=800, ge=1)
    epochs: int = Field(default=0, ge=0)
    batch: int = Field(default=16, ge=1)
    positives: int = Field(default=4, ge=1)
    negatives: int = Field(default=6, ge=0)
    hard_negatives: float = Field(default=0.5, ge=0.0, le=1.0)
    balanced: bool = False
    loss: Literal["bce", "bce+dice", "focal+dice"] = "bce"
    loss_stride: int = Field(default=4, ge=1)
    lr: float = Field(default=1e-3, gt=0.0)
    final_lr: float = Field(default=2e-6, ge=0.0)
    warmup: int = Field(default=40, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.2, ge=0.0)
    final_weight_decay: float = Field(default=0.2, ge=0.0)
    decoder_constant: bool = False
    text_noise: float = Field(default=0.0, ge=0.0)
    ema: float = Field(default=0.0, ge=0.0, lt=1.0)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    validate_every: int = Field(default=200, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)
    feed: Literal["stored", "online"] = "stored"
    augmentation: Literal["pascal", "coco"] = "pascal"
    workers: int = Field(default=2, ge=0)
    accumulate: int = Field(default=1, ge=1)
    channels_last: bool = False
    compile_fusion: bool = False
    tensorboard: bool = False
    seed: int = Field(default=0, ge=0)

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
    """Everything that decides a training run. ``flat`` makes one, ``changed`` another from it."""

    pair: PairConfig = PairConfig()
    fusion: FusionConfig = FusionConfig(preset="small")
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _words_and_patches_meet(self) -> "RunConfig":
        if self.fusion.kind == "similarity":
            from fusionerlib.features.alignment import require_one_space

            require_one_space(self.pair, by="kind 'similarity'")
        if self.fusion.kind == "maps" and self.fusion.likeness == "classes":
            from fusionerlib.features.alignment import require_classes

            require_classes(self.pair)
            if self.training.text_noise:
                raise FusionerError(
                    f"text_noise {self.training.text_noise} would make no distribution of a word's distribution over "
                    "classes: set text_noise = 0, or likeness = 'learned'"
                )
        return self

    @classmethod
    def flat(cls, **leaves: Any) -> "RunConfig":
        """The run of these leaf names (``steps=20, depth=4``): each goes to the section that has it.

        A preset brings the recipe of its own name, and how it reads the packaged pair (tokens, templates, synonyms);
        what is given wins. A leaf that is None counts as not given. With neither preset nor recipe it is
        ``presets.DEMO``. Raises FusionerError naming an unknown or ill-typed value and the nearest known name.
        """
        homes = cls.leaf_sections()
        for leaf, value in leaves.items():
            if leaf not in homes:
                raise FusionerError(f"unknown parameter {leaf!r} = {value!r}: {nearest(leaf, sorted(homes))}")
        nested: dict[str, dict[str, Any]] = {name: {} for name in cls.model_fields}
        for leaf, value in resolved({leaf: value for leaf, value in leaves.items() if value is not None}).items():
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
        """This run with some leaves changed; one that is None stays.

        A preset replaces the whole section ``fusion``, the recipe, and how the packaged pair is read; a recipe replaces
        all leaves that any recipe decides. What is given beside them wins. Raises FusionerError as ``flat`` does.
        """
        new = {leaf: value for leaf, value in leaves.items() if value is not None}
        return self.flat(**{**undecided(self.leaves, fusion=FusionConfig.model_fields, new=new), **new})


def _section(field: Any) -> type[BaseModel]:
    section = field.annotation
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return section


def checked(model: type[Config], values: dict[str, Any]) -> Config:
    """``model`` built from ``values``; a FusionerError that names each bad value where they do not fit."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or model.__name__} = {problem['input']!r}: {problem['msg']}"
            for problem in error.errors()
        )
        raise FusionerError(f"{model.__name__} can't be built: {problems}") from error
