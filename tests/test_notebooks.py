"""The notebooks: how they are written, and every one of them executed at smoke size by the project's own runner."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusionerlib.cli.app import app
from fusionerlib.inspector import saved_cases
from studies.performance.tables import TITLES
from tests.conftest import ROOT, requests_of
from tests.drawn_photos import draw_coco, draw_voc
from tests.studies.test_performance import written as measured
from tests.workbook.test_sharing import absolute, texts
from workbook import notebook as parameters
from workbook.execution import execute_notebook
from workbook.graph import load_profile, profile_names
from workbook.notebook import NotebookParameters
from workbook.openings import OPENINGS
from workbook.parameter_cells import check_parameters, parameter_names

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
CARRY_OVER = "08_words_that_carry_over"
STUDIES: dict[str, type[NotebookParameters]] = {
    "00_the_model": parameters.ModelNotebook,
    "06_mask_inspector": parameters.MaskInspectorNotebook,
    "07_encoder_pairs": parameters.EncoderPairsNotebook,
    CARRY_OVER: parameters.CostAggregationNotebook,
    "09_performance": parameters.PerformanceNotebook,
}
"""Notebooks beside the graph of a run: for a person to use, or with data of its own."""
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
        if stem == "00_the_model":  # the one notebook that holds logic
            continue
        functions = (node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.FunctionDef))
        assert not [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 5]


@written
def test_each_notebook_opens_with_its_question_a_prediction_and_a_picture(stem: str) -> None:
    opening, *_, last = read(stem)
    words = opening["source"]
    question, guess, shown = words.index("?"), words.index("*Before you run it*"), words.index("![")
    assert words.startswith("# ") and re.search(r"\*\*[^*]+\?", words), "a question in bold"
    assert question < guess < shown and "?" in words[guess:shown], "something to predict, then the picture"
    (target,) = re.findall(r"!\[[^\]]{20,}\]\((\S+)\)", words)
    with Image.open(ROOT / "notebooks" / target) as picture:
        assert picture.width >= 900 and np.asarray(picture).std() > 10, "not empty, and sharp in a column"
    assert OPENINGS.keys() >= {stem}, "`make pictures` draws it"
    # Every question at the end has its answer.
    asked = re.findall(r"^- ", last["source"], re.MULTILINE)
    answers = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8").split("\n## ")
    (own,) = [part for part in answers if part.startswith(f"{int(stem[:2])}. ")]
    assert last["source"].startswith("## Try") and len(asked) == len(re.findall(r"^- ", own, re.MULTILINE)) >= 3


@pytest.mark.parametrize("stem", ["00_the_model", "01_feature_inspection", "02_training", "05_mosaic4_robustness"])
def test_where_shapes_change_they_are_drawn(stem: str) -> None:
    code = [cell["source"] for cell in read(stem) if cell["cell_type"] == "code"]
    (drawing,) = [cell for cell in code if "plots.shapes(" in cell]
    assert f'"{stem[:2]}_shapes.png"' in drawing and drawing.count('", (') + drawing.count('", tuple(') >= 4


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


def inspected(folder: Path, **given: Any) -> list[dict[str, Any]]:
    """Notebook 06 executed headless in ``folder``: the data of all outputs, after a look at what it promises."""
    given = {"run_dir": str(folder), **given}
    execute_notebook(ROOT / "notebooks" / "06_mask_inspector.ipynb", folder / "out.ipynb", parameters=given)
    executed = json.loads((folder / "out.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in executed["metadata"], "a static page has no use for them, and they are large"
    with Image.open(folder / "figures" / "06_mask_inspector.png") as still:
        assert still.width > 1200 and np.asarray(still).std() > 20
    return [output["data"] for cell in executed["cells"] for output in cell.get("outputs", []) if "data" in output]


def test_the_mask_inspector_leaves_a_picture_of_its_state(tmp_path: Path) -> None:
    outputs = inspected(tmp_path, names="cat, zebra", threshold=0.4)
    assert any("image/png" in data for data in outputs)
    record = json.loads((tmp_path / "records" / "06_mask_inspector.json").read_text())
    assert record["covered"]["cat"] > 0.3 > record["covered"]["zebra"]
    assert "names=['cat', 'zebra'], threshold=0.4" in record["line"]


def test_the_mask_inspector_steps_through_the_cases_of_a_run(smoke: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke / "checkpoint", tmp_path / "checkpoint")
    outputs = inspected(tmp_path, checkpoint=str(tmp_path / "checkpoint"), cases=1)
    assert any("image/png" in data for data in outputs)
    best, worst = saved_cases(tmp_path, count=1)
    assert best.title.startswith("best: ") and worst.title.startswith("worst: ")
    scores = [float(re.search(r"IoU ([\d.]+)", case.title)[1]) for case in (best, worst)]  # type: ignore[index]
    assert scores == sorted(scores, reverse=True)
    assert all(case.labels.max() <= len(case.names) or 255 in case.labels for case in (best, worst))


FORMULAS = {
    "Linear layers and layer norm": r"\mathrm{LN}(x) = \frac",
    "Projections": r"V' = \mathrm{LN}",
    "The fusion block": r"\mathrm{softmax}",
    "The decoder": r"\mathrm{IN}(\mathrm{conv}",
    "The cosine head": r"\ell_k(x) = \frac{1}{\tau}",
    "The loss": r"L = -\frac{1}{K |x|}",
}
"""Of notebook 00: each part of the model, and what its formula holds."""


def test_each_part_of_the_model_has_its_formula_its_code_and_the_shapes_a_drawing() -> None:
    cells = read("00_the_model")
    for title, formula in FORMULAS.items():
        place = next(i for i, cell in enumerate(cells) if cell["source"].startswith(f"## {title}\n"))
        assert "$$" in cells[place]["source"] and formula in cells[place]["source"], title
        assert cells[place + 1]["cell_type"] == "code" and "def " in cells[place + 1]["source"], title
    code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    assert "plots.shapes(" in code and "00_similarity.png" in code and "00_attention.png" in code
    logic = [line for line in code.splitlines() if line.startswith(("def ", "    ")) and "def shifted" not in line]
    assert 50 <= len(logic) <= 110, "the model in about sixty lines, the comparison and the training beside it"


def test_the_model_written_out_has_the_library_s_logits_and_learns(tmp_path: Path) -> None:
    given = {"run_dir": str(tmp_path), "paper_grid": 4}
    execute_notebook(ROOT / "notebooks" / "00_the_model.ipynb", tmp_path / "out.ipynb", parameters=given)
    record = json.loads((tmp_path / "records" / "00_the_model.json").read_text())
    assert set(record["differences"]) == {"toy, fusioner", "toy, late", "paper, fusioner", "paper, late"}
    assert 0 < max(record["differences"].values()) < 1e-5
    assert record["losses"][-1]["loss"] < 0.4 * record["losses"][0]["loss"] and min(record["iou"]) > 0.3
    names = ("shapes", "similarity", "attention")
    assert all((tmp_path / "figures" / f"00_{name}.png").is_file() for name in names)


def test_what_carries_over_is_studied_on_photographs(tmp_path: Path) -> None:
    given = {
        "run_dir": str(tmp_path / "run"),
        "voc_root": str(draw_voc(tmp_path / "voc")),
        "coco_root": str(draw_coco(tmp_path / "coco")),
        "settings": ["class-agnostic", "two views"],
        **{"folds": [3], "seeds": [0, 1], "steps": 2, "variant_steps": 1, "size": 64},
    }
    execute_notebook(ROOT / "notebooks" / f"{CARRY_OVER}.ipynb", tmp_path / "out.ipynb", parameters=given)
    assert len(list((tmp_path / "run" / "transfer" / "runs").glob("*.json"))) == 6
    assert {path.name for path in (tmp_path / "run" / "figures").glob("*.png")} == {"08_gains.png", "08_overlays.png"}
    assert {"modern", "class-agnostic"} == set(json.loads((tmp_path / "run/metrics.json").read_text())["transfer"])
    assert "## One thing at a time" in (tmp_path / "run" / "transfer" / "table.md").read_text()


def test_the_page_of_performance_is_written_from_records(tmp_path: Path) -> None:
    given = {"run_dir": str(tmp_path / "run"), "records": str(measured(tmp_path / "records")), "gpu_tflops": 250.0}
    execute_notebook(ROOT / "notebooks" / "09_performance.ipynb", tmp_path / "out.ipynb", parameters=given)
    text = (tmp_path / "run" / "performance.md").read_text(encoding="utf-8")
    assert [title for title in TITLES.values() if f"\n## {title}\n" not in text] == []
    assert "Abacus 5" in text and "This is an estimate" in text and "250 TFLOP/s assumed" in text
    assert text.count("has no record of") == 2 and "has no record of `benchmarks/data.py`" in text
    drawn = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert drawn == {"09_targets", "09_training", "09_scale"}
    reached = json.loads((tmp_path / "run" / "metrics.json").read_text())["performance"]
    assert reached["training step, reference / stored, processor"] == 4.0


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
    assert "mosaic4: objects" in text and "data:image/" in text


def test_nothing_to_share_names_an_absolute_path(smoke: Path) -> None:
    for file in smoke.glob("notebooks/*.ipynb"):
        found = [path for text in texts(json.loads(file.read_text(encoding="utf-8"))) for path in absolute(text)]
        assert found == [], file
    for page in [smoke / "index.html", *smoke.glob("pages/*.html")]:
        assert absolute(page.read_text(encoding="utf-8")) == [], page


def test_no_page_asks_the_network_for_anything(smoke: Path, browser: Any) -> None:
    assert requests_of(browser, smoke / "index.html", *sorted((smoke / "pages").glob("*.html"))) == []


def test_a_second_call_has_nothing_to_do(smoke: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "smoke", "--dry-run", "--output", str(smoke), "--set", f"data.root={smoke.parent / 'openmoji'}"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "Nothing to be done" in capfd.readouterr().out
