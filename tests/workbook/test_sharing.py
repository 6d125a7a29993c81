"""No absolute path of this machine in executed notebooks, their pages and the report."""

import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from fusionerlib.errors import FusionerError
from tests.conftest import ROOT, MakeNotebook
from workbook.execution import execute_notebook
from workbook.report import write_site
from workbook.report.notebook_pages import write_page
from workbook.sharing import last_progress, places_of, shareable_text

ODD = "Ä ö & 猫 mit Leerzeichen"

TELLING = """import json, os, sys, tempfile, warnings
from pathlib import Path
from urllib.parse import quote
from IPython.display import HTML, JSON, Markdown, display
places = [run_dir, root, os.getcwd(), str(Path.home() / "x y"), sys.prefix, sys.executable, os.__file__]
places += [tempfile.gettempdir(), tempfile.mkdtemp(), "/usr/share/dict/words", "/etc/hosts"]
for place in places:
    print(place, repr(place), ascii(place), json.dumps([place]), f"file://{quote(place)}", Path(place), sep="\\n")
    print(f"[{place}/a b/c.txt]: looked in {place}.", file=sys.stderr)
warnings.warn(f"nothing in {root}")
display(HTML("".join(f"<a href='{place}/x.png' title='{place}'>{place}</a>" for place in places)))
display(JSON({"config": {"root": root, "nested": [{place: place} for place in places]}}))
display(Markdown("".join(f"![p]({quote(place)}/p.png) `{place}`" for place in places)))
places"""
WIDGETS = """import ipywidgets
ipywidgets.Text(value=root + "/photo.jpg", description=run_dir)"""
LIBRARY = "from fusionerlib.images import read_image\nread_image(root + '/no such photo.png')"
STANDARD = "import json\njson.load(open(root + '/names.json'))"
INSTALLED = "import torch\ntorch.load(root + '/weights.pt')"


ESCAPED = re.compile(r"\\+[xu]((?<=x)[0-9a-f]{2}|(?<=u)[0-9a-f]{4})")


def texts(value: Any) -> Iterator[str]:
    """Every string in the content of a notebook, keys too, but pictures."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from texts(part) if not key.startswith("image/") else ()


def absolute(text: str) -> list[str]:
    """The absolute paths in ``text``: those of this machine's folders in any spelling, and whatever looks like one."""
    text = re.sub(r"data:[\w/+-]+;base64,[\w+/=]+", "", text)
    spellings = {text, html.unescape(text), unquote(text), ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)}
    spellings = {re.sub(r"\x1b\[[\d;]*m", "", one) for one in spellings}
    folders = {ROOT, Path.home(), Path(sys.prefix), Path(sys.base_prefix), Path(tempfile.gettempdir()), Path("/etc")}
    here = "|".join(re.escape(str(folder)) for folder in folders)
    looks = re.compile(rf"(?:{here})(?![\w-])[^\n]{{0,40}}|(?:file://|(?<![\w.…~/<%]))/(?:\w[\w.-]*/)+\w[^\n]{{0,40}}")
    return [found for one in spellings for found in looks.findall(one)]


def test_this_test_would_see_them() -> None:
    for told in (
        f"in {ROOT}/x",
        f"'{Path.home()}'",
        f"file://{quote('/mnt/ä b/c')}",
        "(/mnt/a/b)",
        f"\x1b[32m{ROOT}\x1b[0m",
    ):
        assert absolute(told), told
    assert not absolute("a/b/c ~/x/y …/z </div></p> https://example.com/a/b data:image/png;base64,/9j/4AAQ/etc/")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that is the clone, with a path that needs escaping everywhere."""
    folder = tmp_path / ODD / "clone"
    folder.mkdir(parents=True)
    (folder / "Snakefile").touch()
    return folder


@pytest.mark.parametrize(
    ("place", "ending"),
    [
        pytest.param("in the clone", "", id="done"),
        pytest.param("in the clone", LIBRARY, id="library"),
        pytest.param("elsewhere", STANDARD, id="standard"),
        pytest.param("elsewhere", INSTALLED, id="installed"),
    ],
)
def test_an_executed_notebook_its_page_and_the_report_name_no_absolute_path(
    clone: Path, tmp_path: Path, make_notebook: MakeNotebook, monkeypatch: pytest.MonkeyPatch, place: str, ending: str
) -> None:
    monkeypatch.chdir(clone)
    run = (clone / "outputs" if place == "in the clone" else tmp_path / ODD) / "läuft 1"
    given = {"run_dir": str(run), "root": str(tmp_path / ODD / "photos ß"), "more": [f"{tmp_path}/a b,{tmp_path}/c d"]}
    cells = [TELLING, WIDGETS, *([ending] if ending else [])]
    parameters = 'run_dir: str = "x"\nroot: str = "y"\nmore: list = []'
    notebook = make_notebook(clone / "notebooks" / "02_n.ipynb", parameters, *cells, markdown="# Title")
    executed = run / "notebooks" / "02_n.ipynb"
    try:
        execute_notebook(notebook, executed, parameters=given)
    except FusionerError:
        assert ending
    content = json.loads(executed.read_text(encoding="utf-8"))
    assert {"input_path", "parameters"} <= set(content["metadata"]["papermill"])
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    kinds = {output["output_type"] for output in outputs}
    assert kinds == {"stream", "display_data", "execute_result", *(["error"] if ending else [])}
    assert [found for text in texts(content) for found in absolute(text)] == []
    told = "".join(texts(content))
    assert ("outputs/läuft 1" if place == "in the clone" else "läuft 1") in told and "…/photos ß" in told
    (run / "records").mkdir()
    (run / "records" / "02_n.json").write_text(json.dumps({"config": given, "environment": {}}))
    index = write_site(run)
    for page in (index, run / "pages" / "02_n.html"):
        assert absolute(page.read_text(encoding="utf-8")) == [], page
    assert "photos ß" in (run / "pages" / "02_n.html").read_text(encoding="utf-8")


def test_the_page_of_a_notebook_that_plain_papermill_executed(
    clone: Path, tmp_path: Path, make_notebook: MakeNotebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill

    monkeypatch.chdir(clone)
    notebook = make_notebook(clone / "notebooks" / "n.ipynb", 'run_dir: str = "x"\nroot: str = "y"', TELLING)
    given, executed = {"run_dir": str(clone / "outputs"), "root": str(tmp_path / ODD / "a b")}, tmp_path / "n.ipynb"
    papermill.execute_notebook(str(notebook), str(executed), parameters=given, progress_bar=False)
    assert any(map(absolute, texts(json.loads(executed.read_text(encoding="utf-8")))))
    write_page(executed, tmp_path / "n.html")
    assert absolute((tmp_path / "n.html").read_text(encoding="utf-8")) == []


@pytest.mark.skipif(os.name != "posix", reason="paths as POSIX writes them")
def test_what_becomes_of_a_path() -> None:
    clone, run, home = Path("/srv/anna's ä b/clone"), Path("/scratch/run 1"), Path.home()
    places = places_of(clone, run / "notebooks" / "n.ipynb", {"root": "/mnt/my data", "other": ["/mnt/x,/mnt/y z"]})
    expected = {
        f"{clone}/outputs/a.json": "outputs/a.json",
        f"at {clone}: no": "at .: no",
        f"{clone}, {clone}/": "., ./",
        f"{clone}2/x": "…/anna's ä b/clone2/x",
        f"{run}/metrics.json": "run 1/metrics.json",
        "/mnt/my data/1.png": "…/my data/1.png",
        "root='/mnt/my data'": "root='…/my data'",
        "/mnt/y z/2.png": "…/y z/2.png",
        f"{home}/photos": "~/photos",
        f"{home}": "~",
        f"{sys.prefix}/lib": "…/environment/lib",
        "/opt/thing/other.py:3": "…/other.py:3",
        "\x1b[32m/opt/thing/other.py\x1b[39m:\x1b[32m3": "\x1b[32m…/other.py\x1b[39m:\x1b[32m3",
        "file:///mnt/my%20data/1.png": "…/my data/1.png",
        "a/opt/b https://example.com/opt/b and/or </opt>": "a/opt/b https://example.com/opt/b and/or </opt>",
    }
    for text, short in expected.items():
        assert shareable_text(text, places) == short, text


def test_of_progress_the_last_line_of_each_task_stays() -> None:
    def told(text: str, name: str = "stderr") -> dict[str, Any]:
        return {"output_type": "stream", "name": name, "text": text}

    steps = [told(f"training: {done}%, {done} of 100 steps, 3.0 steps/s, 00:01 gone, loss 0.5\n") for done in (5, 50)]
    read = told("features of seen: 100%, 160 of 160 images\n")
    done = told("training: 100%, 100 of 100 steps, 3.0 steps/s, 00:33 gone\n")
    note = told("training: the learning rate is high\n")
    picture = {"output_type": "display_data", "data": {"text/plain": "a: 5%, 1 of 20 steps"}, "metadata": {}}
    found = last_progress([told("2,400 scenes\n", "stdout"), *steps, read, done, picture, note, steps[0], note])
    both = read["text"] + done["text"]
    assert found == [told("2,400 scenes\n", "stdout"), told(both), picture, note, steps[0], note]
    assert last_progress(["a", "b"]) == ["a", "b"] and last_progress([]) == []
