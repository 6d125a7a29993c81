"""Pages: every relative link leads to a file, and the site is built without a warning and asks the network nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, requests_of

LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")
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


def test_the_site_asks_for_local_files_only(site: Path, browser: object) -> None:
    shown = ("docs/index", "README", "docs/api", "docs/protocol", "notebooks/02_training", "studies/performance/README")
    asked = requests_of(browser, *(site / f"{page}.html" for page in shown))
    assert all(url.startswith(site.as_uri()) for url in asked), asked
