"""The notebooks: how they are written, and every one of them executed at smoke size by the project's own runner."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fusionerlib import notebook as parameters
from fusionerlib.cli import app
from fusionerlib.execution import execute_notebook
from fusionerlib.notebook import NotebookParameters
from fusionerlib.pairs import Study
from fusionerlib.parameter_cells import check_parameters, parameter_names
from fusionerlib.runs import load_profile, profile_names
from tests.conftest import ROOT, requests_of

MODELS: dict[str, type[NotebookParameters]] = {
    "01_feature_inspection": parameters.InspectionNotebook,
    "02_training": parameters.TrainingNotebook,
    "03_evaluation": parameters.EvaluationNotebook,
    "04_ablations": parameters.AblationNotebook,
    "05_mosaic4_robustness": parameters.MosaicNotebook,
}
PARAMETER = re.compile(r"(\w+): (str|int|float|bool|list|dict) = .+  # \S.*")
MOSAIC4 = ("assignment", "miou", "miou_permuted", "miou_object_only", "scenes")
each = pytest.mark.parametrize("stem", MODELS)
STUDIES: dict[str, type[NotebookParameters]] = {"07_encoder_pairs": Study}
"""Notebooks beside the graph of a run, with data of their own."""
written = pytest.mark.parametrize("stem", [*MODELS, *STUDIES])
DATA = ROOT.parent / "shared" / "data"


def read(stem: str) -> list[dict[str, Any]]:
    content = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["metadata"]["kernelspec"]["language"] == "python"
    return [{**cell, "source": "".join(cell["source"])} for cell in content["cells"]]


@written
def test_the_parameters_cell_is_one_line_a_parameter_with_its_help(stem: str) -> None:
    tagged = [cell["source"] for cell in read(stem) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = [line for line in tagged[0].splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not PARAMETER.fullmatch(line)] == []
    names = parameter_names(ROOT / "notebooks" / f"{stem}.ipynb")
    assert "run_dir" in names
    values: dict[str, Any] = {}
    exec(tagged[0], values)
    {**MODELS, **STUDIES}[stem].from_namespace({name: values[name] for name in names})


@written
def test_every_code_cell_is_introduced_and_short(stem: str) -> None:
    cells = read(stem)
    for before, cell in zip([{"cell_type": "none"}, *cells], cells, strict=False):
        if cell["cell_type"] != "code":
            continue
        assert before["cell_type"] == "markdown", f"no words before: {cell['source'][:60]!r}"
        assert cell["outputs"] == [] and cell["execution_count"] is None
        functions = (node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.FunctionDef))
        assert not [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 5]


def test_the_profiles_fit_the_notebooks() -> None:
    for name in profile_names():
        for stem, given in load_profile(name).notebooks.items():
            check_parameters(ROOT / "notebooks" / f"{stem}.ipynb", given)


@pytest.mark.parametrize(("stem", "given"), [("02_training", ("stpes", "3")), ("03_evaluation", ("threshold", "high"))])
def test_plain_papermill_stops_at_a_bad_parameter(tmp_path: Path, stem: str, given: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", f"notebooks/{stem}.ipynb"]
    command += [str(tmp_path / "out.ipynb"), "-p", "run_dir", str(tmp_path), "-p", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FusionerError" in done.stderr and given[0] in done.stderr


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the photographs in ../shared/data, which are not here")
def test_the_encoder_pairs_are_compared_on_photographs(tmp_path: Path) -> None:
    given = {
        "run_dir": str(tmp_path),
        "voc_root": str(DATA / "voc-mini"),
        "coco_root": str(DATA / "coco-mini"),
        "vectors": str(DATA / "clip-text" / "clip-vit-b32.parquet"),
        **{"folds": [3], "seeds": [0], "steps": 2, "batch": 4, "size": 64, "photos": 24, "least": 2},
    }
    execute_notebook(ROOT / "notebooks" / "07_encoder_pairs.ipynb", tmp_path / "out.ipynb", parameters=given)
    table = json.loads((tmp_path / "metrics.json").read_text())["encoder_pairs"]
    assert len(table) == 6 and {"single", "multi"} == set(table["MiniLM, early"])
    assert (tmp_path / "figures" / "07_encoder_pairs.png").is_file()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    data = f"data.root={folder / 'openmoji'}"
    result = CliRunner().invoke(app, ["run", "smoke", "--output", str(folder / "run"), "--set", data])
    assert result.exit_code == 0, result.stderr
    assert "mosaic4" in result.stdout and str(folder / "run" / "index.html") in result.stdout
    return folder / "run"


def test_the_run_leaves_what_it_promises(smoke: Path) -> None:
    promised = [
        "index.html",
        "metrics.json",
        "per_class.parquet",
        "checkpoint/model.safetensors",
        "checkpoint/config.json",
    ]
    promised += [f"{place.format(stem)}" for place in ("notebooks/{}.ipynb", "pages/{}.html") for stem in MODELS]
    assert [path for path in promised if not (smoke / path).is_file()] == []
    assert list((smoke / "figures").glob("*.png"))


@each
def test_every_notebook_ran_without_an_error(smoke: Path, stem: str) -> None:
    executed = json.loads((smoke / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in executed["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    assert all(cell["execution_count"] for cell in code)
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]


def test_the_metrics_have_their_names_and_counts(smoke: Path) -> None:
    metrics = json.loads((smoke / "metrics.json").read_text())
    assert {"miou", "scenes"} <= set(metrics["unseen_combinations"])
    for split in ("combinations", "objects"):
        found = metrics["mosaic4"][split]
        assert set(MOSAIC4) <= set(found)
        assert all(0.0 <= found[name] <= 1.0 for name in MOSAIC4[:-1]) and found["scenes"] > 0


def test_the_index_is_complete(smoke: Path) -> None:
    text = (smoke / "index.html").read_text()
    assert "All 5 notebooks ran to their end" in text
    assert "mosaic4.objects" in text and "data:image/png" in text


def test_no_page_asks_the_network_for_anything(smoke: Path, browser: Any) -> None:
    assert requests_of(browser, smoke / "index.html", *sorted((smoke / "pages").glob("*.html"))) == []


def test_a_second_call_has_nothing_to_do(smoke: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "smoke", "--dry-run", "--output", str(smoke), "--set", f"data.root={smoke.parent / 'openmoji'}"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "Nothing to be done" in capfd.readouterr().out
