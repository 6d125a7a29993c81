"""Parameters of notebooks: what counts as one, and how a misspelt name or a wrong type is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fusionerlib.config import DEMO, PRESETS, FusionConfig, RunConfig, TrainingConfig
from fusionerlib.errors import FusionerError
from tests.conftest import ROOT, MakeNotebook
from workbook.graph import load_profile
from workbook.notebook import (
    AblationNotebook,
    EvaluationNotebook,
    InspectionNotebook,
    MaskInspectorNotebook,
    MosaicNotebook,
    NotebookParameters,
    TrainingNotebook,
)
from workbook.parameter_cells import check_parameters, parameter_names

EVERY = (
    InspectionNotebook,
    TrainingNotebook,
    EvaluationNotebook,
    AblationNotebook,
    MosaicNotebook,
    MaskInspectorNotebook,
)


def test_a_namespace_becomes_a_config() -> None:
    p = TrainingNotebook.from_namespace({"run_dir": "outputs/x", "steps": 20, "lr": "1e-3", "depth": 3})
    assert p.directory == Path("outputs/x")
    assert p.run == RunConfig.flat(**DEMO | {"steps": 20, "lr": 1e-3, "depth": 3})


def training_cell(**changes: Any) -> TrainingNotebook:
    """What notebook 02 makes of its own parameters cell and of papermill's after it."""
    cells = json.loads((ROOT / "notebooks" / "02_training.ipynb").read_text(encoding="utf-8"))["cells"]
    values: dict[str, Any] = {}
    exec("".join(next(cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", []))), values)
    return TrainingNotebook.from_namespace({name: values[name] for name in values if name[0] != "_"} | changes)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_trains_what_it_says(preset: str) -> None:
    run = training_cell(preset=preset).run
    assert run.fusion == FusionConfig.model_validate({"preset": preset})
    chosen = {"recipe": preset, "steps": 880, "validate_every": 440}
    assert run.training == TrainingConfig.model_validate(chosen)
    assert training_cell(preset=preset, recipe="small").run.training.batch == 16
    given = training_cell(preset=preset, depth=3, negatives=1, dropout=0.0).run
    assert (given.fusion.depth, given.training.negatives, given.fusion.dropout) == (3, 1, 0.0)


def test_modern_brings_its_tokens_for_the_packaged_pair_alone() -> None:
    pair = training_cell(preset="modern").run.pair
    assert (pair.visual_tokens, pair.text_tokens) == ("classes", "classes")
    assert (pair.templates, pair.synonyms) == ("none", "everyday")
    assert training_cell(preset="modern", templates="few").run.pair.templates == "few"
    assert training_cell(preset="small").run.pair.templates == "eight"
    with pytest.raises(FusionerError, match="likeness = 'learned'"):
        training_cell(preset="modern", text="bert-base")
    assert training_cell(preset="modern", text="bert-base", likeness="learned").run.pair.visual_tokens == ""
    assert training_cell(preset="modern", likeness="learned").run.pair.text_tokens == ""


def test_without_a_preset_it_is_the_demo() -> None:
    run = training_cell().run
    fusion, training = run.fusion, run.training
    assert (fusion.kind, fusion.width, fusion.depth, fusion.heads, fusion.dropout) == ("fusioner", 192, 1, 6, 0.1)
    assert (training.batch, training.positives, training.negatives, training.hard_negatives) == (16, 4, 6, 0.75)
    assert (training.loss, training.lr, training.warmup, training.text_noise) == ("bce+dice", 1e-3, 40, 0.7)
    assert run == training_cell(**load_profile("demo").notebooks["02_training"]).run == training_cell(recipe=None).run


@pytest.mark.parametrize("model", EVERY)
def test_every_notebook_has_defaults(model: type[NotebookParameters]) -> None:
    assert model.from_namespace({}) == model()
    assert "run_dir" in model.known()


def test_what_is_no_parameter_is_left_alone() -> None:
    namespace: dict[str, Any] = {
        "_hidden": 1,
        "re": re,
        "Path": Path,
        "RunConfig": RunConfig,
        "len": len,
        "threshold": 0.3,
    }
    assert EvaluationNotebook.from_namespace(namespace).threshold == 0.3


@pytest.mark.parametrize(
    ("model", "namespace", "told"),
    [
        (TrainingNotebook, {"stpes": 20}, r"'stpes'.*20.*did you mean 'steps'"),
        (EvaluationNotebook, {"thresold": 0.1}, r"'thresold'.*did you mean 'threshold'"),
        (EvaluationNotebook, {"steps": 3}, r"'steps'.*known: all_at_once, .*, episodes, .* threshold"),
        (TrainingNotebook, {"steps": "many"}, r"steps = 'many'.*integer"),
        (EvaluationNotebook, {"threshold": 1.5}, r"threshold = 1\.5.*less than or equal to 1"),
        (MosaicNotebook, {"mosaics": None}, r"mosaics = None"),
        (MaskInspectorNotebook, {"cases": -1}, r"cases = -1.*greater than or equal to 0"),
        (MaskInspectorNotebook, {"name": "cat"}, r"'name'.*did you mean 'names'"),
    ],
)
def test_a_bad_parameter_is_named(model: type[NotebookParameters], namespace: dict[str, Any], told: str) -> None:
    with pytest.raises(FusionerError, match=told):
        model.from_namespace(namespace)


CELL = 'run_dir: str = "a"  # where\nthreshold: float = 0.5'
IMPORT = "from workbook.notebook import EvaluationNotebook"


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([CELL, IMPORT], {"run_dir", "threshold"}, id="first run"),
        pytest.param(
            [CELL, "# Parameters\nthreshold = 0.1\nstpes = 2\n", IMPORT],
            {"run_dir", "threshold", "stpes"},
            id="papermill",
        ),
        pytest.param([CELL, "# Parameters\nthreshold = float('nan')", IMPORT], {"run_dir", "threshold"}, id="nan"),
        pytest.param(
            [CELL, IMPORT, "score = measure()", CELL, IMPORT], {"run_dir", "threshold"}, id="again at the end"
        ),
        pytest.param(["stpes = 2", IMPORT, CELL, IMPORT], {"run_dir", "threshold"}, id="again after a misspelling"),
        pytest.param([CELL, IMPORT, "chosen = 3", IMPORT], {"run_dir", "threshold"}, id="a literal of a later cell"),
    ],
)
def test_in_a_notebook_the_latest_parameter_cells_count(history: list[str], expected: set[str]) -> None:
    known = EvaluationNotebook.known()
    names = {"run_dir": "a", "threshold": 0.5, "score": 0.7, "chosen": 3, "stpes": 2}
    from workbook.parameter_cells import bound_parameters

    assert set(bound_parameters({**names, "In": ["", *history, "p = ..."]}, known=known)) == expected


def test_a_lone_misspelling_in_a_notebook_is_found() -> None:
    with pytest.raises(FusionerError, match="thresold"):
        EvaluationNotebook.from_namespace({"thresold": 1, "In": ["", "thresold = 1", "p = ..."]})


def test_a_kernel_beside_its_notebook_works_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ["", "run_dir = 'outputs/x'", "p = ..."]
    folder = tmp_path / "notebooks"
    folder.mkdir()

    def place_of(namespace: dict[str, Any]) -> Path:
        monkeypatch.chdir(folder)
        EvaluationNotebook.from_namespace(namespace)
        return Path.cwd()

    assert place_of({"run_dir": "outputs/x", "In": cells}) == folder, "some other folder of that name"
    (tmp_path / "Snakefile").touch()
    assert place_of({"run_dir": "outputs/x", "In": cells}) == tmp_path
    assert place_of({"run_dir": "outputs/x"}) == folder, "a script moves nowhere"


def test_given_names_are_compared_with_the_tagged_cell(tmp_path: Path, make_notebook: MakeNotebook) -> None:
    notebook = make_notebook(tmp_path / "n.ipynb", "steps: int = 3  # how many\nname: str = 'a=b'", "other = 1")
    assert parameter_names(notebook) == ["steps", "name"]
    check_parameters(notebook, ["steps"])
    with pytest.raises(FusionerError, match=r"'step' of n\.ipynb: did you mean 'steps'"):
        check_parameters(notebook, ["step"])


def test_a_notebook_without_a_parameters_cell_or_at_all(tmp_path: Path) -> None:
    empty = tmp_path / "empty.ipynb"
    empty.write_text('{"cells": []}')
    with pytest.raises(FusionerError, match="no cell tagged 'parameters'"):
        parameter_names(empty)
    empty.write_text("not json")
    with pytest.raises(FusionerError, match=r"empty\.ipynb can't be read"):
        parameter_names(empty)
