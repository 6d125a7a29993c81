"""The paper's grid (Table 1): pairs of encoders x early and late fusion x folds of PASCAL-5i, one training each."""

import json
from collections.abc import Mapping
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fusionerlib.config import Frozen, RunConfig, checked
from fusionerlib.errors import FusionerError
from fusionerlib.files import plain_name
from fusionerlib.reporting.markdown import markdown_table
from fusionerlib.studies.pairs import FUSIONS


class Grid(Frozen):
    """Which trainings. ``pairs``: visual and text encoders by their names in `fusioner encoders`.

    run: leaves of the config that all trainings share. epochs, warmup_epochs: passes over a fold's published training
    pairs, where ``run`` has no ``steps``.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    fusions: tuple[Literal["early", "late"], ...] = ("early", "late")
    folds: tuple[int, ...] = (0, 1, 2, 3)
    epochs: int = Field(default=510, ge=1)
    warmup_epochs: int = Field(default=10, ge=0)
    run: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def load(cls, name: str, settings: Mapping[str, Any] | None = None) -> "Grid":
        """The packaged grid ``paper``, or one's own by the path of its JSON file, with ``settings``: fields of the grid
        (``folds``, ...), or leaves of its runs' config.

        Raises FusionerError where there is none, and for a setting that neither has.
        """
        packaged = Path(str(resources.files("fusionerlib.grid") / f"{name}.json"))
        file = Path(name) if name.endswith(".json") else packaged
        try:
            values = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise FusionerError(
                f"no grid {name!r} ({error}): give paper, or the path of a grid's .json file"
            ) from error
        for key, value in (settings or {}).items():
            if key in cls.model_fields:
                values[key] = value
            else:
                values["run"] = {**values.get("run", {}), key: value}
        grid = checked(cls, values)
        RunConfig.flat(**next(iter(grid.jobs().values())))
        return grid

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The leaves of every training's config, by a name that is unique among files."""
        lengths = {fold: self._length(fold) for fold in self.folds}
        return {
            _stem(visual, text, fusion, fold): {
                **lengths[fold],
                **self.run,
                "visual": visual,
                "text": text,
                "kind": FUSIONS[fusion],
                "fold": fold,
            }
            for (visual, text), fusion, fold in product(self.pairs, self.fusions, self.folds)
        }

    def missing(self) -> list[str]:
        """The encoders whose weights are neither given by ``run`` nor on this machine, sorted.

        Raises FusionerError for a name that no encoder has.
        """
        from fusionerlib.encoders.registry import get_row
        from fusionerlib.encoders.weights import present

        rows = [get_row("visual", visual) for visual, _ in self.pairs if not self.run.get("visual_weights")]
        rows += [get_row("text", text) for _, text in self.pairs if not self.run.get("text_weights")]
        return sorted({row.name for row in rows if not present(row)})

    def _length(self, fold: int) -> dict[str, int]:
        """Steps that make the epochs, and so few of them with checkpoints and validations that they cost nothing."""
        if "steps" in self.run:
            return {"validate_every": self.run["steps"]}
        from fusionerlib.datasets.pascal import fold_pairs

        batch = RunConfig.flat(**self.run).training.batch
        an_epoch = len(fold_pairs(fold, "train")) // batch
        steps = self.epochs * an_epoch
        return {"steps": steps, "warmup": self.warmup_epochs * an_epoch, "validate_every": steps}


def rows_of(grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """One row for every pair and fusion: visual, text, fusion, the mIoU (0-1) of its folds that have a record in
    ``folder`` (``fold 0``, ...; None for the others), and their mean where all four have one."""
    rows = []
    for (visual, text), fusion in product(grid.pairs, grid.fusions):
        folds = {fold: _miou(record_of(folder, _stem(visual, text, fusion, fold))) for fold in grid.folds}
        known = [level for level in folds.values() if level is not None]
        mean = sum(known) / len(known) if len(known) == 4 else None
        row = {"visual": visual, "text": text, "fusion": fusion}
        rows.append(row | {f"fold {fold}": level for fold, level in folds.items()} | {"mean": mean})
    return rows


def record_of(folder: Path, job: str) -> Path:
    """The file that a training of the grid in ``folder`` leaves."""
    return folder / "records" / f"{job}.json"


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of ``rows_of``, mIoU in percent, "-" for what is not there."""
    return markdown_table(rows, number=lambda level: f"{100 * level:.1f}").rstrip("\n")


def _stem(visual: str, text: str, fusion: str, fold: int) -> str:
    return f"{plain_name(visual)}.{plain_name(text)}.{fusion}.fold{fold}"


def _miou(record: Path) -> float | None:
    return json.loads(record.read_text(encoding="utf-8"))["measured"]["miou"] if record.is_file() else None
