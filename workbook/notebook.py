"""Parameters of a notebook: one cell of ``name: type = literal  # help`` lines, checked as a whole by the next cell.

papermill only warns about a parameter that a notebook does not have, so each notebook checks for itself::

    from workbook.notebook import TrainingNotebook
    p = TrainingNotebook.from_namespace(globals())

and the project's own runner compares the given names with the parameters cell before it starts a kernel.
"""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.evaluation.queries import Inference, Rule
from studies.cost_aggregation.study import CostAggregationStudy
from studies.encoder_pairs.study import Study
from workbook.clone import base_folder, located
from workbook.parameter_cells import bound_parameters, require_known


class NotebookParameters(Frozen):
    """What a notebook can be told. ``run_dir`` is the run's folder: read from by later notebooks, written to by all."""

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
        """The parameters that the cells before bound in ``namespace`` (a notebook hands in ``globals()``).

        Relative paths count from the clone, see ``workbook.clone``. Which names were checked is remembered in
        ``namespace``, see ``bound_parameters``.
        Raises FusionerError naming an unknown name and the nearest known one, or an ill-typed value.
        """
        values = bound_parameters(namespace, known=cls.known())
        for name, value in values.items():
            require_known(name, cls.known(), f"of {cls.__name__} (its value: {value!r})")
        return located(cls.flat(**values), base_folder())

    @classmethod
    def flat(cls, **values: Any) -> Self:
        """The parameters from plain values by name; FusionerError where one does not fit."""
        return checked(cls, values)


class OnDevice(NotebookParameters):
    """Parameters with the ``device`` that the networks run on: cpu, cuda, cuda:1, mps, or "" for a GPU if there is one.

    Raises FusionerError where this machine has no such device.
    """

    device: str = "cpu"

    @field_validator("device")
    @classmethod
    def _there(cls, given: str) -> str:
        from fusionerlib.devices import chosen_device

        return given if given == "cpu" else str(chosen_device(given))


class RunParameters(NotebookParameters):
    """Parameters with a run's config among them: every leaf of ``RunConfig`` is a name of its own (``steps``, ...).

    A leaf that is None is as its preset says, see ``RunConfig.flat``.
    """

    run: RunConfig = RunConfig.flat()

    @classmethod
    def known(cls) -> list[str]:
        """The names of the parameters, the run's leaves among them."""
        return sorted({*cls.model_fields, *RunConfig.leaf_sections()} - {"run"})

    @classmethod
    def flat(cls, **values: Any) -> Self:
        """The parameters from plain values by name, the run's leaves among them; FusionerError where one is unfit."""
        leaves = {name: value for name, value in values.items() if name in RunConfig.leaf_sections()}
        own = {name: value for name, value in values.items() if name not in leaves}
        return checked(cls, {"run": RunConfig.flat(**leaves), **own})


class InspectionNotebook(NotebookParameters):
    """01: what the frozen encoders see.

    checkpoint: "" looks at an untrained fusion of the pair ``visual``, ``text``; a checkpoint brings its own pair.
    photo: a sample of scikit-image. beside: visual encoders, separated by commas, that look at it side by side.
    """

    checkpoint: str = ""
    visual: str = "packaged"
    text: str = "packaged"
    photo: str = "chelsea"
    beside: str = "packaged,clip-vit-b16,dino-vitb16,mocov3-vitb16,dinov2-vitb14"


class TrainingNotebook(OnDevice, RunParameters):
    """02: a fusion module trained; its config is ``run``."""


class EvaluationNotebook(OnDevice):
    """03: the checkpoint of ``run_dir`` measured on its own tests, or on those of ``test_dataset`` in ``test_root``.

    episodes: the rule by which a published list of pairs is asked, see ``protocols.episodes``. calibration_scenes:
    training images that a second threshold is calibrated on, 0 for none. threshold: in hundredths.
    """

    test_dataset: str = ""
    test_root: str = ""
    episodes: Rule = "all"
    inference: Inference = "whole"
    all_at_once: bool = True
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    calibration_scenes: int = Field(default=0, ge=0)
    names_asked: int = Field(default=8, ge=1)


class AblationNotebook(OnDevice):
    """04: small trainings that differ in one thing, measured on ``ablation_mosaics`` mosaics, ``seeds`` each.

    ablations: names of ``ablation.VARIANTS``. pairs: those of the ablation "pair", as "VISUAL / TEXT".
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
    """05: Mosaic-4 of the checkpoint of ``run_dir``: ``mosaics`` plain ones, harder kinds, and robustness curves.

    source, source_root: data sets that the tiles are cut from and their folders, separated by commas; "" for the
    run's own. kind_mosaics, curve_mosaics: how many of each kind and of each curve, 0 leaves them out. methods: names
    of ``methods.METHODS``, trained for ``method_steps`` steps, 0 for as many as the run's, and measured likewise.
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
    """06: any names on any photo, by ``checkpoint``: "packaged", a run's name, or a folder.

    image: a photo's path; "" for samples of scikit-image. names: separated by commas. cases: how many of the best and
    of the worst scenes of the run in ``run_dir`` are stepped through after the photos, 0 for none.
    """

    checkpoint: str = "packaged"
    image: str = ""
    names: str = "cat, cup, person"
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    cases: int = Field(default=0, ge=0)


class EncoderPairsNotebook(NotebookParameters, Study):
    """07: text encoders compared for one visual encoder; the fields are those of the study."""


class CostAggregationNotebook(NotebookParameters, CostAggregationStudy):
    """08: one setting of cost aggregation changed at a time; the fields are those of the study."""


class PerformanceNotebook(NotebookParameters):
    """09: the page of the benchmarks' records in the folder ``records``.

    page: the Markdown file, "" for ``performance.md`` in ``run_dir``. gpu_tflops: what one GPU is assumed to sustain in
    training, for the estimates. coco_epochs: of a training on COCO-20i.
    """

    records: str = "outputs/benchmarks"
    page: str = ""
    gpu_tflops: float = Field(default=100.0, gt=0.0)
    coco_epochs: int = Field(default=510, ge=1)

    @property
    def file(self) -> Path:
        """Where the page goes."""
        return Path(self.page) if self.page else self.directory / "performance.md"
