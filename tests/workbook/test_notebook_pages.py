"""Pages of a run: nothing in them reaches for the network, read by a parser and seen by a browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fusionerlib.errors import FusionerError
from tests.conftest import ROOT, MakeNotebook, requests_of
from workbook.report import failures, index_page, notebooks_of, tables, terminal_table, write_site
from workbook.report.notebook_pages import FETCHING, write_page

METRICS = {
    "unseen_combinations": {"miou": 0.52349, "scenes": 200},
    "mosaic4": {
        "combinations": {"assignment": 0.8, "miou": 0.5, "scenes": 500},
        "objects": {"assignment": 0.66, "miou": 0.3, "scenes": 500},
    },
    "note": "<b>bold</b>",
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="  # 1 x 1 PNG


class Fetches(HTMLParser):
    """Collects everything in a page that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.style = tag == "style"
        self.found += [tag] if tag in FETCHING else []
        self.found += [str(values[name]) for name in ("src", "srcset", "poster", "background") if name in values]
        self.found += [str(values["href"])] if tag in ("link", "image", "use") else []

    def handle_data(self, data: str) -> None:
        if self.style:
            self.found += re.findall(r"@import|url\(\s*[\"']?(?![\"'#]|data:)[^)]*", data)


def fetched_by(page: Path) -> list[str]:
    parser = Fetches()
    parser.feed(page.read_text())
    return [source for source in parser.found if not source.startswith("data:")]


def executed(path: Path, make: MakeNotebook, *, error: str = "", end: str | None = "2030-01-01T00:00:00") -> Path:
    """A notebook as papermill leaves it, with every kind of output that could reach for the network."""
    make(path, "steps: int = 3", "show()", markdown="# Title <i>here</i>\n\n![away](https://example.com/a.png) $x^2$")
    notebook = json.loads(path.read_text())
    notebook["metadata"]["papermill"] = {"duration": 12.3, "end_time": end}
    notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    fetching = (
        "<script src='https://example.com/s.js'></script><link rel=stylesheet href='https://example.com/s.css'>"
        "<img src='http://example.com/b.png' srcset='http://example.com/c.png 2x'><iframe src='//example.com'></iframe>"
        "<style>@import 'https://example.com/e.css'; .x { background: url(https://example.com/f.png) }</style>"
        "<div style='background: url(https://example.com/d.png)' class=x onclick='go()'>styled</div>"
        "<a href=//example.com>link</a>"
    )
    widget = {"model_id": "1", "version_major": 2, "version_minor": 0}
    shown: list[dict[str, Any]] = [
        {"text/html": fetching, "text/plain": "plain"},
        {"image/png": PIXEL, "text/plain": "<Figure>"},
        {"application/vnd.jupyter.widget-view+json": widget, "image/png": PIXEL, "text/plain": "IntSlider()"},
    ]
    outputs = [{"output_type": "display_data", "metadata": {}, "data": data} for data in shown]
    if error:
        told = {"ename": "ValueError", "evalue": error, "traceback": [f"\x1b[0;31mValueError\x1b[0m: {error}"]}
        outputs.append({"output_type": "error", **told})
    notebook["cells"][-1]["outputs"] = outputs
    path.write_text(json.dumps(notebook))
    return path


@pytest.fixture
def run(tmp_path: Path, make_notebook: MakeNotebook) -> Path:
    folder = tmp_path / "run <1>"
    executed(folder / "notebooks" / "01_first.ipynb", make_notebook)
    executed(folder / "notebooks" / "02_second.ipynb", make_notebook, error="no <cat> & no dog")
    executed(folder / "notebooks" / "03_third.ipynb", make_notebook, end=None)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    stems = ("01_first", "02_second", "03_third", "04_fourth")
    (folder / "profile.json").write_text(json.dumps({"name": "demo", "notebooks": {stem: {} for stem in stems}}))
    (folder / "figures").mkdir()
    Image.linear_gradient("L").convert("RGB").resize((3000, 900)).save(folder / "figures" / "02_curve.png")
    Image.linear_gradient("L").resize((300, 200)).save(folder / "figures" / "03_masks.png")
    (folder / "figures" / "04_broken.png").write_bytes(b"no picture")
    return folder


def test_a_notebook_s_page_holds_its_results_and_fetches_nothing(tmp_path: Path, make_notebook: MakeNotebook) -> None:
    page = tmp_path / "pages" / "n.html"
    write_page(executed(tmp_path / "n.ipynb", make_notebook, error="told"), page)
    assert fetched_by(page) == []
    text = page.read_text()
    assert text.count("data:image/png;base64," + PIXEL) == 2
    assert "styled" in text and "told" in text and "[not embedded: away]" in text
    assert "default-src 'none'" in text and "go()" not in text
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in text and "$x^2$" not in text, "formulas are MathML, without a script"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_notebook_s_page_follows_the_reader_s_theme(
    tmp_path: Path, make_notebook: MakeNotebook, browser: Any, scheme: str
) -> None:
    write_page(executed(tmp_path / "n.ipynb", make_notebook), tmp_path / "n.html")
    page = browser.new_page(color_scheme=scheme)
    page.goto((tmp_path / "n.html").as_uri())
    for place in ("body", ".jp-RenderedMarkdown", ".highlight", "nav.back a"):
        behind, ink = page.evaluate(
            """place => {
                const light = text => text.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + +part / 765, 0);
                let node = document.querySelector(place), behind = node;
                const colour = () => getComputedStyle(behind).backgroundColor;
                while (/, 0\\)/.test(colour()) && behind.parentElement) behind = behind.parentElement;
                return [light(colour()), light(getComputedStyle(node).color)];
            }""",
            place,
        )
        assert (behind < 0.2 and ink > 0.4) if scheme == "dark" else (behind > 0.9 and ink < 0.5), place
    page.close()


def test_formulas_are_mathml_outside_code_and_pages_link_to_the_next(
    tmp_path: Path, make_notebook: MakeNotebook
) -> None:
    words = "costs $5 or $6, `$y$`, $\\frac{a}{b} < c$ and\n\n$$\\sum_k p_k \\in \\{0, 1\\}$$\n\n    $z$"
    for stem in ("01_first", "02_second"):
        make_notebook(tmp_path / f"{stem}.ipynb", "", markdown=words)
        write_page(tmp_path / f"{stem}.ipynb", tmp_path / f"{stem}.html", stems=["01_first", "02_second"])
    text = (tmp_path / "01_first.html").read_text(encoding="utf-8")
    assert text.count("<math") == 2 and "<mfrac>" in text and 'display="block"' in text
    assert "costs $5 or $6" in text and "$y$" in text and "$z$" in text
    assert text.count('<a href="02_second.html">Next: 2 second</a>') == 2 and "Before:" not in text
    assert "Before: 1 first" in (tmp_path / "02_second.html").read_text(encoding="utf-8")


def test_pictures_of_the_text_are_embedded_and_links_count_from_the_page(tmp_path: Path) -> None:
    page = ROOT / "outputs" / "pages_test" / "n.html"
    try:
        write_page(ROOT / "notebooks" / "05_mosaic4_robustness.ipynb", page)
        text = page.read_text(encoding="utf-8")
        assert "not embedded" not in text and "data:image/jpeg;base64," in text
        assert (page.parent / re.findall(r'href="([^"]+answers.md)"', text)[0]).is_file()
        write_page(ROOT / "notebooks" / "05_mosaic4_robustness.ipynb", tmp_path / "n.html")
        assert "answers.md" not in (tmp_path / "n.html").read_text(encoding="utf-8"), "no path out of the clone"
    finally:
        shutil.rmtree(page.parent, ignore_errors=True)


def test_the_parser_of_this_test_sees_what_nbconvert_alone_would_fetch(
    tmp_path: Path, make_notebook: MakeNotebook
) -> None:
    from nbconvert import HTMLExporter

    text, _ = HTMLExporter().from_filename(str(executed(tmp_path / "n.ipynb", make_notebook)))
    (tmp_path / "n.html").write_text(text)
    assert sum(source.startswith("http") for source in fetched_by(tmp_path / "n.html")) >= 3


def test_what_is_no_notebook_is_named(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").write_text("nothing")
    with pytest.raises(FusionerError, match=r"n\.ipynb can't be read"):
        write_page(tmp_path / "n.ipynb", tmp_path / "n.html")


def test_the_index_tells_results_failures_figures_and_record(run: Path) -> None:
    index = write_site(run)
    text = index.read_text()
    assert fetched_by(index) == []
    assert "<h1>run &lt;1&gt;</h1>" in text
    assert "0.523" in text and "mosaic4: objects" in text
    assert "no &lt;cat&gt; &amp; no dog" in text and "<cat>" not in text
    assert "Title &lt;i&gt;here&lt;/i&gt;" in text and "pages/01_first.html" in text
    assert text.count("data:image/webp;base64,") == 2 and "04_broken.png can't be shown" in text
    assert "profile.json" in text
    assert len(text) < 1_000_000


def test_an_empty_run_has_an_index_too(tmp_path: Path) -> None:
    assert "No result was measured yet" in index_page(tmp_path, [])


def test_states_of_notebooks(run: Path) -> None:
    assert [(ran.stem, ran.problem) for ran in notebooks_of(run)] == [
        ("01_first", None),
        ("02_second", "ValueError: no <cat> & no dog"),
        ("03_third", "did not reach its end"),
        ("04_fourth", "not run"),
    ]
    assert list(failures(run)) == ["02_second", "03_third"]


def test_equal_columns_share_a_table() -> None:
    one, two = tables(METRICS)
    assert one.columns == ("miou", "scenes") and one.rows == (("unseen_combinations", ("0.523", "200")),)
    assert [name for name, _ in two.rows] == ["mosaic4.combinations", "mosaic4.objects"]


def test_the_terminal_table_is_short_and_aligned() -> None:
    lines = terminal_table(METRICS).splitlines()
    assert lines[-1].split() == ["mosaic4.objects", "0.660", "0.300", "500"]
    assert len({len(line) for line in lines[-3:]}) == 1
    many = {f"row{index}": {"miou": 0.5} for index in range(100)}
    assert len(terminal_table(many, most=5).splitlines()) == 8
    assert "95 more rows" in terminal_table(many, most=5)


def test_a_browser_without_network_shows_every_page_and_asks_for_nothing(run: Path, browser: Any) -> None:
    write_site(run)
    assert requests_of(browser, run / "index.html", *sorted((run / "pages").glob("*.html"))) == []


def test_the_browser_test_would_see_a_request(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "bad.html").write_text("<img src='https://example.com/a.png'>")
    assert requests_of(browser, tmp_path / "bad.html") == ["https://example.com/a.png"]
