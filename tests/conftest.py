"""Shapes and types of the library are checked in every test; tiny notebooks for the tests of the machinery."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from beartype import beartype
from jaxtyping import install_import_hook


def typechecker(function: Any) -> Any:
    """beartype for one function; it takes ``Self`` only where it decorates the whole class, so that goes unchecked."""
    hints = getattr(function, "__annotations__", {})
    if Self in hints.values():
        function.__annotations__ = {name: Any if hint is Self else hint for name, hint in hints.items()}
    return beartype(function)


# Before anything of the library is imported: its functions then check their annotations, shapes included.
install_import_hook("fusionerlib", f"{__name__}.typechecker")

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = """from pathlib import Path
checkpoint = Path(run_dir) / "checkpoint"
checkpoint.mkdir(exist_ok=True)
for name in ("model.safetensors", "config.json"):
    (checkpoint / name).write_text("{}")"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MakeNotebook = Callable[..., Path]


def record_cell(stem: str) -> str:
    """A cell that writes the file that the graph expects of notebook ``stem``."""
    return f"""import json, os
from pathlib import Path
Path(run_dir, "records").mkdir(exist_ok=True)
Path(run_dir, "per_class.parquet").touch()
threads = os.environ.get("OMP_NUM_THREADS")
Path(run_dir, "records", "{stem}.json").write_text(json.dumps({{"threads": threads, "cwd": os.getcwd()}}))"""


@pytest.fixture
def make_notebook() -> MakeNotebook:
    """Write a notebook file from the sources of its code cells, the first one tagged ``parameters``."""

    def make(path: Path, *sources: str, markdown: str = "", metadata: Mapping[str, Any] | None = None) -> Path:
        cells: list[dict[str, Any]] = [
            {"cell_type": "code", "execution_count": None, "id": f"cell{i}", "outputs": [], "source": source}
            | {"metadata": {"tags": ["parameters"]} if i == 0 else {}}
            for i, source in enumerate(sources)
        ]
        if markdown:
            cells.insert(0, {"cell_type": "markdown", "id": "title", "metadata": {}, "source": markdown})
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = {"cells": cells, "metadata": {"kernelspec": kernel, **(metadata or {})}}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
        return path

    return make


@pytest.fixture
def tiny_clone(tmp_path: Path, make_notebook: MakeNotebook) -> Path:
    """The project's real Snakefile with five notebooks that only write what the graph expects, and a profile."""
    root = tmp_path / "clone"
    root.mkdir()
    shutil.copy(ROOT / "Snakefile", root / "Snakefile")
    stems = ("01_feature_inspection", "02_training", "03_evaluation", "04_ablations", "05_mosaic4_robustness")
    for stem in stems:
        own = {"01_feature_inspection": 'checkpoint: str = ""', "02_training": "steps: int = 3"}.get(stem, "")
        body = [CHECKPOINT] if stem == "02_training" else []
        head = f'run_dir: str = "outputs/tiny"\n{own}'
        make_notebook(
            root / "notebooks" / f"{stem}.ipynb", head, *body, record_cell(stem), markdown=f"# Title of {stem}"
        )
    (root / "tiny.json").write_text(json.dumps({"name": "tiny", "notebooks": {stem: {} for stem in stems}}))
    return root


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by playwright."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


def requests_of(browser: Any, *pages: Path) -> list[str]:
    """What the pages ask for besides themselves, on a phone and a desk, with the network blocked.

    A page must also have no error, no broken image, and nothing wider than the screen. Pictures of the pages go to
    the folder in FUSIONER_SCREENSHOTS, if it is set.
    """
    asked: set[str] = set()
    for width in (390, 1280):
        view = browser.new_page(viewport={"width": width, "height": 900})
        view.on("request", lambda request: asked.add(request.url))
        view.route(lambda url: not url.startswith(("file:", "data:")), lambda route: route.abort())
        for page in pages:
            view.goto(page.as_uri())
            if folder := os.environ.get("FUSIONER_SCREENSHOTS"):
                view.screenshot(path=Path(folder) / f"{page.stem}-{width}.png", full_page=True)
            if asked <= {page.as_uri() for page in pages}:
                assert view.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{page} at {width} px"
                assert view.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), page
        view.close()
    return sorted(url for url in asked - {page.as_uri() for page in pages} if not url.startswith("data:"))
