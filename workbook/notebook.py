"""The parameters of each notebook: one cell of ``name: type = literal  # help`` lines, validated by the next cell.

papermill only warns about a parameter that a notebook does not have, so each notebook checks them itself::

    from workbook.notebook import TrainingNotebook
    p = TrainingNotebook.from_namespace(globals())

and ``fusioner notebook`` compares the given names with the parameters cell before it starts a kernel.
"""

import re
from collections.abc import MutableMapping
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.evaluation.queries import Inference, Rule
from fusionerlib.inference.overlay import short
from studies.cost_aggregation.study import CostAggregationStudy
from studies.encoder_pairs.study import Study
from workbook.clone import base_folder, located, located_checkpoint
from workbook.parameter_cells import bound_parameters, require_known


class NotebookParameters(Frozen):
    """The parameters that all notebooks have.

    run_dir: the folder of a run. Every notebook writes its results there; later notebooks read those of earlier ones.
    """

    run_dir: str = "outputs/notebooks"

    @property
    def directory(self) -> Path:
        """``run_dir`` as a path."""
        return Path(self.run_dir)

    @property
    def base(self) -> Path:
        """The folder that relative paths count from, those in a checkpoint's config too."""
        return base_folder()

    @classmethod
    def known(cls) -> list[str]:
        """The names that the parameters cell may bind, sorted."""
        return sorted(cls.model_fields)

    @classmethod
    def from_namespace(cls, namespace: MutableMapping[str, Any]) -> Self:
        """The parameters that earlier cells bound in ``namespace``, which is a notebook's ``globals()``.

        Relative paths count from the clone, see ``workbook.clone``. The names that were checked are remembered in
        ``namespace``, see ``bound_parameters``.
        Raises FusionerError naming an unknown name and the nearest known one, or an ill-typed value.
        """
        values = bound_parameters(namespace, known=cls.known())
        for name, value in values.items():
            require_known(name, cls.known(), f"of {cls.__name__} (its value: {value!r})")
        if values.get("init"):  # its config is read before the other paths are located
            values["init"] = located_checkpoint(values["init"], base_folder())
        return located(cls.flat(**values), base_folder())

    @classmethod
    def flat(cls, **values: Any) -> Self:
        """The parameters from values by name. Raises FusionerError naming a value that does not fit."""
        return checked(cls, values)


class OnDevice(NotebookParameters):
    """Parameters of a notebook that runs networks.

    device: cpu, cuda, cuda:1 or mps; "" is a GPU if there is one, else the CPU. Raises FusionerError where this machine
    has no such device.
    """

    device: str = "cpu"

    @field_validator("device")
    @classmethod
    def _there(cls, given: str) -> str:
        from fusionerlib.devices import chosen_device

        return given if given == "cpu" else str(chosen_device(given))


class RunParameters(NotebookParameters):
    """Parameters that hold a run's config: every leaf of ``RunConfig`` (``steps``, ...) is a parameter of that name.

    A leaf that is None takes the value of its preset, see ``RunConfig.flat``.
    """

    run: RunConfig = RunConfig.flat()

    @classmethod
    def known(cls) -> list[str]:
        """The names of the parameters, those of the run's leaves included, sorted."""
        return sorted({*cls.model_fields, *RunConfig.leaf_sections()} - {"run"})

    @classmethod
    def flat(cls, **values: Any) -> Self:
        """The parameters from values by name, the run's leaves included. Raises FusionerError for one that is unfit."""
        leaves = {name: value for name, value in values.items() if name in RunConfig.leaf_sections()}
        own = {name: value for name, value in values.items() if name not in leaves}
        return checked(cls, {"run": RunConfig.flat(**leaves), **own})

    def table(self) -> str:
        """Every setting of the run: its name, its value, and what it means in a few words, by section."""
        lines = []
        for title, section in self.run:
            meant = meanings(type(section))
            lines.append(f"{title}")
            for name, value in section.model_dump(mode="json").items():
                shown = short(str(value), 18)
                lines.append(f"  {name:20} {shown:18} {meant.get(name, '')}".rstrip())
        return "\n".join(lines)


def meanings(model: type[BaseModel], *, width: int = 60) -> dict[str, str]:
    """What each field of ``model`` means, by its name, from its docstring; cut to ``width`` characters."""
    text = " ".join((model.__doc__ or "").split())
    names = "|".join(map(re.escape, model.model_fields))
    parts = re.split(rf"(?:(?<=[.;:] )|^)((?:{names})(?:, [\w ]+)*): ", text)
    found = {}
    for fields, meaning in zip(parts[1::2], parts[2::2], strict=True):
        for field in (name for name in fields.split(", ") if name in model.model_fields):
            found[field] = shorten(meaning.strip(" ;."), width, placeholder=" …")
    return found


class ModelNotebook(NotebookParameters):
    """00: the model written out.

    scenes: drawn scenes to train on. steps: training steps. paper_grid: side of the patch grid on which the model of
    the paper's size is compared with the library. seed: of the initial weights.
    """

    scenes: int = Field(default=8, ge=1)
    steps: int = Field(default=30, ge=1)
    paper_grid: int = Field(default=14, ge=2)
    seed: int = Field(default=0, ge=0)


class InspectionNotebook(NotebookParameters):
    """01: frozen features.

    checkpoint: the folder of a trained fusion, which brings its own encoders; "" takes an untrained fusion of the
    encoders ``visual`` and ``text``. photo: a sample photo of scikit-image. beside: names of visual encoders, separated
    by commas, whose features of the photo are shown side by side.
    """

    checkpoint: str = ""
    visual: str = "packaged"
    text: str = "packaged"
    photo: str = "chelsea"
    beside: str = "packaged,clip-vit-b16,dino-vitb16,mocov3-vitb16,dinov2-vitb14"


class TrainingNotebook(OnDevice, RunParameters):
    """02: training; ``run`` is the config."""


class EvaluationNotebook(OnDevice):
    """03: evaluation of the checkpoint of ``run_dir``, on its own data's tests or on ``test_dataset`` in ``test_root``.

    episodes: which (image, class) pairs of a published list are asked, see ``fusionerlib.evaluation.queries.episodes``.
    edges: whether the picture guides the edges of the masks; "" takes what suits the model. threshold: a pixel where no
    name's probability exceeds it is background. calibration_scenes: how many training images a second threshold is
    calibrated on, 0 for none. names_asked: names per scene, on tests without a list.
    """

    test_dataset: str = ""
    test_root: str = ""
    episodes: Rule = "all"
    inference: Inference = "whole"
    edges: Literal["", "guided", "bilinear"] = ""
    all_at_once: bool = True
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    calibration_scenes: int = Field(default=0, ge=0)
    names_asked: int = Field(default=8, ge=1)


class AblationNotebook(OnDevice):
    """04: short trainings that differ in one setting, with ``seeds`` seeds each.

    ablations: names of ``studies.ablations.study.VARIANTS``. pairs: the encoder pairs of the ablation "pair", as
    "VISUAL / TEXT". ablation_steps, ablation_batch: of each training. ablation_mosaics: test mosaics of each split.
    """

    ablations: tuple[str, ...] = ("fusion depth", "where they meet", "templates")
    pairs: tuple[str, ...] = ("packaged / packaged", "packaged / arbitrary", "packaged / constant")
    ablation_steps: int = Field(default=150, ge=1)
    ablation_batch: int = Field(default=8, ge=1)
    ablation_mosaics: int = Field(default=100, ge=1)
    seeds: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        from studies.ablations.study import chosen_variants

        chosen_variants(self.ablations, pairs=self.pairs)
        return self


class MosaicNotebook(OnDevice):
    """05: Mosaic-4. The checkpoint of ``run_dir`` is evaluated on mosaics of four test samples.

    source, source_root: the data sets that the tiles come from, and their folders, separated by commas; "" for the
    run's own data. mosaics: how many 2x2 mosaics the main split has. kind_mosaics, curve_mosaics: how many mosaics each
    harder kind and each robustness curve has, 0 for none. methods: names of ``studies.methods.study.METHODS``, trained
    for ``method_steps`` steps (0: as many as the run) and evaluated on the same mosaics.
    """

    source: str = ""
    source_root: str = ""
    mosaics: int = Field(default=500, ge=1)
    mosaic_seed: int = Field(default=0, ge=0)
    kind_mosaics: int = Field(default=100, ge=0)
    curve_mosaics: int = Field(default=100, ge=0)
    methods: tuple[str, ...] = ()
    method_steps: int = Field(default=0, ge=0)

    @field_validator("methods")
    @classmethod
    def _known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        from studies.methods.study import require_methods

        require_methods(given)
        return given


class MaskInspectorNotebook(NotebookParameters):
    """06: the mask inspector, for any names on any photo.

    checkpoint: "packaged", the name of a run, or a run's or a checkpoint's folder. image: the path of a photo; ""
    for sample photos of scikit-image. names: separated by commas. cases: how many of the best and how many of the worst
    scenes of the run in ``run_dir`` follow the photos, 0 for none.
    """

    checkpoint: str = "packaged"
    image: str = ""
    names: str = "cat, cup, person"
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    cases: int = Field(default=0, ge=0)


class EncoderPairsNotebook(NotebookParameters, Study):
    """07: encoder pairs, with early and late fusion; the parameters are those of the study."""


class CostAggregationNotebook(NotebookParameters, CostAggregationStudy):
    """08: generalisation to unseen classes by cost aggregation; the parameters are those of the study."""


class PerformanceNotebook(NotebookParameters):
    """09: tables and one page of performance, from the benchmarks' records in the folder ``records``.

    page: the Markdown file to write, "" for ``performance.md`` in ``run_dir``. gpu_tflops: the TFLOP/s that one GPU is
    assumed to sustain in training, for the estimates. coco_epochs: epochs of a training on COCO-20i, likewise.
    """

    records: str = "outputs/benchmarks"
    page: str = ""
    gpu_tflops: float = Field(default=100.0, gt=0.0)
    coco_epochs: int = Field(default=510, ge=1)

    @property
    def file(self) -> Path:
        """The Markdown file to write."""
        return Path(self.page) if self.page else self.directory / "performance.md"
