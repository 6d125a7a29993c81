"""Pages: every relative link leads to a file, and the site is built without a warning and asks the network nothing."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT, requests_of

LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")
PACKAGES = {"fusionerlib", "workbook", "studies", "tests"}
PATH = re.compile(r"`((?:fusionerlib|workbook|studies|tests|docs|notebooks|benchmarks)/[\w./-]+)`")
EXAMPLE = r"/(test_)?(lab|pets|hidden)\.(py|json)$"
"""Files that the pages on adding something write."""
EXAMPLES: dict[str, dict[str, dict[str, str]]] = {
    "adding_an_encoder.md": {},
    "adding_a_data_set.md": {
        "fusionerlib/config.py": {'"fss1000", "folder"] = "openmoji"': '"fss1000", "folder", "pets"] = "openmoji"'},
        "fusionerlib/datasets/sets.py": {
            '        "folder": _folder,\n': '        "folder": _folder,\n        "pets": _pets,\n',
            "from fusionerlib.datasets.scene import": "from fusionerlib.datasets.pets import Pets\n"
            "from fusionerlib.datasets.scene import",
        },
    },
    "adding_a_baseline.md": {
        "fusionerlib/config.py": {'"spnet", "training_free"]': '"spnet", "training_free", "hidden"]'},
        "fusionerlib/models/__init__.py": {
            "from fusionerlib.models.fusioner import": "from fusionerlib.models.hidden import HiddenLayer\n"
            "from fusionerlib.models.fusioner import",
            '    "training_free": TrainingFree,\n': '    "training_free": TrainingFree,\n    "hidden": HiddenLayer,\n',
        },
    },
}
"""Pages, and the changes of existing files that they describe in words: file, then old and new text."""
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """What people read in the repository: Markdown outside ignored folders, and the notebooks."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md", "*.ipynb"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def text(page: Path) -> str:
    """The prose of ``page``, without its code blocks."""
    content = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(content)["cells"]
        content = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return FENCE.sub("", content)


def test_every_relative_link_leads_to_a_file() -> None:
    found, broken = 0, []
    for page in pages():
        for target in (first or second for first, second in LINK.findall(text(page))):
            if re.match(r"[a-z]+:|#", target):
                continue
            found += 1
            if not (page.parent / target.partition("#")[0]).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, broken
    assert found > 40


def test_paths_and_imports_in_the_pages_exist() -> None:
    """In the how-to pages and the READMEs; files that a how-to page makes itself are its examples."""
    missing = []
    for page in pages():
        content = page.read_text(encoding="utf-8")
        if page.suffix != ".md" or page.name == "CHANGELOG.md":
            continue
        named = set(PATH.findall(content))
        example = {path for path in named if re.search(EXAMPLE, path)}
        missing += [f"{page.relative_to(ROOT)}: {path}" for path in named - example if not (ROOT / path).exists()]
        own = {path.removesuffix(".py").replace("/", ".") for path in example}
        for block in re.findall(r"^```python\n(.*?)^```", content, re.MULTILINE | re.DOTALL):
            if block[0] == " ":  # a line of a table in the middle of a file
                continue
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                    missing += [f"{page.relative_to(ROOT)}: {name}" for name in unknown(node, own)]
    assert not missing, missing


def unknown(node: ast.ImportFrom, own: set[str]) -> list[str]:
    """The names of an import that do not exist."""
    assert node.module is not None
    if node.module in own:
        return []
    try:
        module = import_module(node.module)
    except ModuleNotFoundError:
        return [node.module]
    names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
    package = hasattr(module, "__path__")
    return [
        f"{node.module}.{name}" for name in names if not (package and find_spec(f"{node.module}.{name}") is not None)
    ]


def test_the_examples_of_adding_something_work_as_printed(tmp_path: Path) -> None:
    for package in ("fusionerlib", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    tests = []
    for page, edits in EXAMPLES.items():
        content = (ROOT / "docs" / page).read_text(encoding="utf-8")
        # A block is what the last file named before it gets, at its end; an indented one is the line of a table.
        for block in re.finditer(r"^```(?:python|json)\n(\S.*?)^```", content, re.MULTILINE | re.DOTALL):
            name = PATH.findall(content[: block.start()])[-1]
            with (tmp_path / name).open("a", encoding="utf-8") as file:
                file.write(block[1])
            tests += [name] if name.startswith("tests/") else []
        for name, changes in edits.items():
            source = (tmp_path / name).read_text(encoding="utf-8")
            for old, new in changes.items():
                assert source.count(old) == 1, (page, name, old)
                source = source.replace(old, new)
            (tmp_path / name).write_text(source, encoding="utf-8")
    assert len(tests) == len(EXAMPLES), tests
    # One process for all: each would import torch for itself.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), *tests]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{len(EXAMPLES)} passed" in done.stdout, done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="sphinx is in the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_the_pages_the_notebooks_and_the_api(site: Path) -> None:
    for page in ("index", "docs/index", "README", "docs/protocol", "CONTRIBUTING", "CHANGELOG"):
        assert (site / f"{page}.html").is_file(), page
    for source in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("studies/*/README.md"), *ROOT.glob("docs/*.md")]:
        assert (site / source.relative_to(ROOT).with_suffix(".html")).is_file(), source
    api = (site / "docs" / "api.html").read_text(encoding="utf-8")
    import fusionerlib

    for name in fusionerlib.__all__:
        assert f'id="fusionerlib.{name}"' in api or f'id="module-fusionerlib.evaluation.{name}"' in api, name


def test_formulas_of_the_site_are_mathml(site: Path) -> None:
    cells = json.loads((ROOT / "notebooks/00_the_model.ipynb").read_text(encoding="utf-8"))["cells"]
    formulas = sum("".join(cell["source"]).count("$$") for cell in cells) // 2
    shown = (site / "notebooks" / "00_the_model.html").read_text(encoding="utf-8")
    assert shown.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') == formulas > 5
    assert "$" not in re.sub("<(pre|script|style).*?</\\1>", "", shown, flags=re.DOTALL)


def test_the_site_asks_for_local_files_only(site: Path, browser: object) -> None:
    shown = ("docs/index", "README", "docs/api", "docs/protocol", "notebooks/02_training", "studies/performance/README")
    asked = requests_of(browser, *(site / f"{page}.html" for page in shown))
    assert all(url.startswith(site.as_uri()) for url in asked), asked
