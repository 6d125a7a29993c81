"""Parameters of notebooks: what counts as one, and how a misspelt name or a wrong type is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fusionerlib import checkpoints
from fusionerlib.config import FusionConfig, RunConfig, TrainingConfig
from fusionerlib.errors import FusionerError
from fusionerlib.features.context import RunContext
from fusionerlib.presets import DEMO, PRESETS
from tests.conftest import ROOT, MakeNotebook
from workbook.clone import PATHS
from workbook.execution import own_kernel
from workbook.graph import load_profile
from workbook.notebook import (
    AblationNotebook,
    CostAggregationNotebook,
    EncoderPairsNotebook,
    EvaluationNotebook,
    InspectionNotebook,
    MaskInspectorNotebook,
    MosaicNotebook,
    NotebookParameters,
    PerformanceNotebook,
    TrainingNotebook,
    meanings,
)
from workbook.parameter_cells import accepted_names, check_parameters, parameter_names

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
    assert run.training == TrainingConfig.model_validate({"recipe": preset, "validate_every": 200})
    assert training_cell(preset=preset, recipe="small").run.training.batch == 16
    given = training_cell(preset=preset, depth=3, negatives=1, dropout=0.0).run
    assert (given.fusion.depth, given.training.negatives, given.fusion.dropout) == (3, 1, 0.0)


def test_modern_brings_its_tokens_for_the_packaged_pair_alone() -> None:
    pair = training_cell(preset="modern").run.pair
    assert (pair.visual_tokens, pair.text_tokens) == ("class_posteriors", "class_posteriors")
    assert (pair.templates, pair.synonyms) == ("none", "everyday")
    assert training_cell(preset="modern", templates="few").run.pair.templates == "few"
    assert training_cell(preset="small").run.pair.templates == "eight"
    with pytest.raises(FusionerError, match="similarity = 'learned'"):
        RunContext(training_cell(preset="modern", text="bert-base").run)
    assert training_cell(preset="modern", text="bert-base", similarity="learned").run.pair.visual_tokens == ""
    assert training_cell(preset="modern", similarity="learned").run.pair.text_tokens == ""


def test_without_a_preset_it_is_the_demo() -> None:
    run = training_cell().run
    fusion, training = run.fusion, run.training
    assert (fusion.kind, fusion.width, fusion.depth, fusion.heads, fusion.dropout) == ("fusioner", 128, 1, 4, 0.1)
    assert (training.batch, training.positives, training.negatives, training.hard_negatives) == (16, 4, 6, 0.75)
    assert (training.loss, training.lr, training.warmup, training.text_noise) == ("bce+dice", 1e-3, 40, 0.7)
    assert (training.optimiser, training.steps, run.pair.templates) == ("muon", 400, "none")
    assert training_cell(text="bert-base").run.pair.templates == "eight", "other text encoders want sentences"
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
CHECK = f"{IMPORT}\np = EvaluationNotebook.from_namespace(globals())"
INJECTED = "# Parameters\nthreshold = 0.1\nstpes = 2\n"
WRONG, RIGHT = 'run_dir: str = "a"\nthresold: float = 0.1', 'run_dir: str = "a"\nthreshold: float = 0.1'
FAILS = "try:\n    p = EvaluationNotebook.from_namespace(globals())\nexcept ValueError as error:\n    p = str(error)"


def run_cells(*cells: str) -> Any:
    """``p`` after IPython ran the cells in a kernel's namespace."""
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactiveshell.InteractiveShell()
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()
    return shell.user_ns["p"]


@pytest.mark.parametrize(
    ("cells", "threshold"),
    [
        pytest.param([CELL, CHECK], 0.5, id="first run"),
        pytest.param([CELL, "# Parameters\nthreshold = 0.1", CHECK], 0.1, id="papermill"),
        pytest.param([CELL, CHECK, "score = 0.7\nepisodes = []", CELL.replace("0.5", "0.2"), CHECK], 0.2, id="again"),
        pytest.param([CELL, CHECK, "chosen = 3\nepisodes = []", CHECK], 0.5, id="a later cell's variables"),
        pytest.param([CELL, CHECK, "threshold = 0.3", CHECK], 0.3, id="set by hand"),
        pytest.param([IMPORT, WRONG, FAILS, RIGHT, CHECK], 0.1, id="again after a misspelling"),
        pytest.param([CELL, CHECK, "score = 1", WRONG, FAILS, RIGHT, CHECK], 0.1, id="misspelt at the end"),
        pytest.param([IMPORT, "thresold = 0.1", FAILS, RIGHT, CHECK], 0.1, id="misspelt without a type"),
    ],
)
def test_in_a_kernel_the_parameters_cell_counts(cells: list[str], threshold: float) -> None:
    p = run_cells(*cells)
    assert (p.threshold, p.episodes) == (threshold, "all")


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        pytest.param([IMPORT, CELL, INJECTED, FAILS], "'stpes'", id="papermill's"),
        pytest.param([IMPORT, "thresold = 1", FAILS], "'thresold'.*did you mean 'threshold'", id="alone"),
        pytest.param([IMPORT, WRONG, FAILS, FAILS], "'thresold'", id="not corrected"),
        pytest.param([IMPORT, WRONG, FAILS, WRONG, FAILS], "'thresold'", id="run again as it is"),
        pytest.param([CELL, CHECK, "score = 1", WRONG, FAILS], "'thresold'", id="at the end"),
        pytest.param([IMPORT, CELL, INJECTED, FAILS, FAILS], "'stpes'", id="papermill's, checked again"),
    ],
)
def test_in_a_kernel_a_misspelling_is_found(cells: list[str], told: str) -> None:
    assert re.search(told, run_cells(*cells))


def test_annotations_may_be_made_when_they_are_asked_for() -> None:
    """Python 3.14 leaves a function in the namespace."""
    first: dict[str, Any] = {"threshold": 0.5}
    EvaluationNotebook.from_namespace(first)
    again = {**first, "thresold": 0.1, "score": 1, "__annotate__": lambda form: {"thresold": float}}
    with pytest.raises(FusionerError, match="'thresold'"):
        EvaluationNotebook.from_namespace(again)

    def broken(form: int) -> dict[str, type]:
        raise NameError("name 'Unknown' is not defined")

    assert EvaluationNotebook.from_namespace({**first, "score": 1, "__annotate__": broken}).threshold == 0.5


def test_every_path_among_the_parameters_is_declared() -> None:
    """A new parameter that holds a path must say so, or it means another file in JupyterLab than under papermill."""
    sections = [field.annotation for field in RunConfig.model_fields.values()]
    models: list[Any] = [*EVERY, EncoderPairsNotebook, CostAggregationNotebook, PerformanceNotebook, *sections]
    fields = {name: field.annotation for model in models for name, field in model.model_fields.items()}
    assert {name for name, kind in fields.items() if kind is Path} <= PATHS
    assert set(fields) >= PATHS


GIVEN = {"run_dir": "outputs/x", "root": "data/drawn", "features": "/kept", "templates": "words.txt"}


def test_paths_of_a_kernel_beside_its_notebook_count_from_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "words.txt").write_text("a {}")
    monkeypatch.chdir(folder)
    assert TrainingNotebook.from_namespace(dict(GIVEN)).directory == Path("outputs/x"), "another folder of that name"
    (tmp_path / "Snakefile").touch()
    p = TrainingNotebook.from_namespace(dict(GIVEN))
    assert (p.directory, p.base, Path.cwd()) == (tmp_path / "outputs" / "x", tmp_path, folder)
    data, pair = p.run.data, p.run.pair
    assert (data.root, data.coco, data.features) == (tmp_path / "data/drawn", tmp_path / "data/coco", Path("/kept"))
    assert (pair.templates, pair.synonyms, pair.visual_weights) == (str(tmp_path / "words.txt"), "", "")
    monkeypatch.chdir(tmp_path)
    assert TrainingNotebook.from_namespace(dict(GIVEN)).run.data.root == Path("data/drawn")


def test_a_checkpoint_s_data_count_from_the_clone_too(tmp_path: Path) -> None:
    folder = checkpoints.packaged_folder()
    here, _ = RunContext.of_checkpoint(folder)
    there, trained = RunContext.of_checkpoint(folder, base=tmp_path)
    assert here.run == trained.run and not here.run.data.root.is_absolute()
    assert there.run.data.root == tmp_path / here.run.data.root
    assert there.run.data.features == tmp_path / here.run.data.features
    assert (there.run.pair, there.run.data.dataset) == (here.run.pair, here.run.data.dataset)


def test_names_stay_names_beside_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "Snakefile").touch()
    run = tmp_path / "outputs" / "demo" / "checkpoint"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    for checkpoint, expected in (("packaged", "packaged"), ("demo", str(run)), ("outputs/demo/checkpoint", str(run))):
        assert MaskInspectorNotebook.from_namespace({"checkpoint": checkpoint}).checkpoint == expected
    p = MosaicNotebook.from_namespace({"source": "photos,coco", "source_root": "data/voc, /data/coco"})
    assert p.source_root == f"{tmp_path}/data/voc,/data/coco"
    run_config = TrainingNotebook.from_namespace({"text": "vectors:data/v.parquet", "templates": "few"}).run
    assert (run_config.pair.text, run_config.pair.templates) == (f"vectors:{tmp_path}/data/v.parquet", "few")


def test_a_real_kernel_beside_its_notebook_writes_into_the_clone(tmp_path: Path, make_notebook: MakeNotebook) -> None:
    import papermill

    (tmp_path / "Snakefile").touch()
    say = f"{CHECK}\nfrom pathlib import Path\n(p.directory / 'here').parent.mkdir(parents=True)\n"
    notebook = make_notebook(
        tmp_path / "notebooks" / "n.ipynb", CELL, say + "(p.directory / 'here').write_text(str(Path.cwd()))", CHECK
    )
    own_kernel()
    folder = str(notebook.parent)
    papermill.execute_notebook(
        str(notebook), str(tmp_path / "out.ipynb"), cwd=folder, kernel_name="python3", progress_bar=False
    )
    assert (tmp_path / "a" / "here").read_text() == folder
    assert not (notebook.parent / "a").exists()


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


def test_what_the_cell_does_not_show_is_in_the_table_and_accepted() -> None:
    notebook = ROOT / "notebooks" / "02_training.ipynb"
    shown = parameter_names(notebook)
    assert len(shown) <= 14 and set(RunConfig.leaf_sections()) <= set(accepted_names(notebook))
    check_parameters(notebook, ["batch", "text_noise"])
    with pytest.raises(FusionerError, match="did you mean 'text_noise'"):
        check_parameters(notebook, ["text_nois"])
    assert TrainingNotebook.from_namespace({"batch": 5}).run.training.batch == 5
    rows = [line.split(maxsplit=1) for line in TrainingNotebook.flat().table().splitlines() if line.startswith("  ")]
    assert [name for name, *_ in rows] == list(RunConfig.leaf_sections()), "each leaf once, in its order"
    for _, section in TrainingNotebook.flat().run:
        assert set(meanings(type(section))) == set(type(section).model_fields), "each has words for its meaning"
