"""The page of a run: what it tells, how large it gets, and that names of users stay text, seen by a browser."""

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fusionerlib.config import RunConfig
from fusionerlib.errors import FusionerError
from studies.published import HOLE
from tests.conftest import MakeNotebook, requests_of
from workbook.report import figures, index_page, notebooks_of, write_site

EVIL = "<img src=x onerror=document.title='taken'>"
LIMIT = 10_000_000
GIT = {"commit": "0123456789abcdef", "dirty": True}
ENVIRONMENT = {"python": "3.12.1", "platform": "Linux-x", "packages": {"torch": "2.9.9", "timm": None}, "git": GIT}


def write(file: Path, values: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def record(**config: Any) -> dict[str, Any]:
    return {"config": config, "environment": ENVIRONMENT}


def executed(path: Path, make: MakeNotebook, *, error: str = "", **given: Any) -> None:
    """A notebook as papermill leaves it: its parameters and times, and an error where it failed."""
    make(path, "pass", markdown=f"# About {EVIL}")
    notebook = json.loads(path.read_text())
    times = {"start_time": "2030-01-01T10:00:00+00:00", "end_time": "2030-01-01T11:30:00+00:00", "duration": 5400.0}
    notebook["metadata"]["papermill"] = {**times, "parameters": given}
    told = {"ename": "KeyError", "evalue": error, "traceback": [f"\x1b[31mline 7\x1b[0m of {EVIL}"]}
    notebook["cells"][-1]["outputs"] = [{"output_type": "error", **told}] if error else []
    path.write_text(json.dumps(notebook))


@pytest.fixture
def run(tmp_path: Path, make_notebook: MakeNotebook) -> Path:
    """A run on fold 2 of PASCAL-5i, one notebook failed, with a user's names wherever they can come in."""
    folder = tmp_path / EVIL.replace("/", "")
    executed(folder / "notebooks" / "02_training.ipynb", make_notebook, steps=7, root=EVIL)
    executed(folder / "notebooks" / "03_a#b?c=%20.ipynb", make_notebook, error=EVIL)
    config = RunConfig.flat(dataset="pascal", fold=2, steps=7, seed=5, root=EVIL, templates=EVIL)
    write(folder / "records" / "02_training.json", record(run=config.model_dump(mode="json")))
    rows = [
        {"ablation": "where they meet", "setting": setting, "seed": seed, "metric": "miou, objects"}
        | {"value": value + 0.02 * seed, "parameters": 1000}
        for setting, value in (("early", 0.4), ("late", 0.3), (EVIL, 0.2))
        for seed in (0, 1)
    ]
    write(folder / "records" / "04_ablations.json", {**record(seeds=2), "rows": rows})
    figures_of = {"assignment": 0.5, "miou": 0.25, "miou_permuted": 0.01}
    measured = {"results": {"mosaic4": {"seen": figures_of, "objects": figures_of}}}
    others = {"methods": {EVIL: [7, {"seen": figures_of, "objects": figures_of}]}}
    write(folder / "records" / "05_mosaic4_robustness.json", {**record(mosaic_seed=9), **measured, **others})
    novel = {"miou": 0.4321, "scenes": 300, "episodes": "all", "threshold": 0.5}
    write(folder / "metrics.json", {"novel_classes": novel, EVIL: {EVIL: 0.5}, "training": {"parameters": 1234}})
    (folder / "figures").mkdir()
    Image.linear_gradient("L").save(folder / "figures" / f"03_{EVIL.replace('/', '')}.png")
    return folder


def table_rows(page: str) -> list[list[str]]:
    """The cells of every row of every table, as text."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_what_ran_is_told_in_words(run: Path) -> None:
    page = index_page(run, notebooks_of(run))
    told = {name: html.unescape(text) for name, text in re.findall(r"<dt>([A-Z].*?)</dt><dd>(.*?)</dd>", page)}
    assert told["Run"] == "2030-01-01 10:00 to 11:30 UTC"
    assert told["Model"].startswith("fusioner, preset small") and "1,234 trainable parameters" in told["Model"]
    assert told["Data"].startswith(f"pascal from {EVIL}") and "fold 2" in told["Data"]
    assert told["Training"].startswith("7 steps of 16 images")
    assert told["Seeds"].endswith("seed 5; 04_ablations: seeds 2; 05_mosaic4_robustness: mosaic_seed 9")
    assert told["Versions"] == "Python 3.12.1, torch 2.9.9"
    assert told["Code"] == "commit 0123456789ab, with uncommitted changes"


def test_where_notebooks_ran_with_other_versions_each_is_named(run: Path) -> None:
    other = {**ENVIRONMENT, "python": "3.13.0"}
    write(run / "records" / "03_evaluation.json", {"config": {"threshold": 0.5}, "environment": other})
    page = html.unescape(index_page(run, notebooks_of(run)))
    assert "03_evaluation: Python 3.13.0, torch 2.9.9" in page
    assert "02_training, 04_ablations, 05_mosaic4_robustness: Python 3.12.1, torch 2.9.9" in page


def test_our_figures_stand_beside_the_published_ones(run: Path) -> None:
    page = index_page(run, notebooks_of(run))
    rows = table_rows(page)
    # PASCAL-5i: our one fold, no mean of it, and what the paper printed of LSeg.
    assert ["fusioner small (ours)", "", HOLE, HOLE, "43.2", HOLE, HOLE, "this run"] in rows
    assert "300 pairs of image and class (episodes all, threshold 0.5); the published list of this fold has 725" in page
    quoted = ["LSeg", "ViT-L/16", "61.3", "63.6", "43.1", "41.0", "52.3", "quoted in Fusioner, BMVC 2022"]
    assert quoted in rows
    # Two seeds, 40 and 42 percent: their mean and standard deviation; nothing was published for this pair.
    assert ["early", "1,000", "41.0 ± 1.4", HOLE] in rows
    # Methods: ours have no figure on PASCAL-5i, published systems none on mosaics.
    assert ["this run (ours)", "1,234", "50.0", "25.0", "1.0", HOLE, "this run"] in rows
    assert ["ZS3Net R101", HOLE, HOLE, HOLE, HOLE, "38.3", "quoted in Fusioner, BMVC 2022"] in rows
    sources = [row[-1] for row in rows if row[-1].endswith(("2022", "2023"))]
    assert len(sources) > 20 and all(source.startswith("quoted") for source in sources)


def test_a_run_on_other_data_has_a_hole_beside_the_paper(run: Path) -> None:
    write(run / "records" / "02_training.json", record(run=RunConfig.flat().model_dump(mode="json")))
    rows = table_rows(index_page(run, notebooks_of(run)))
    assert ["fusioner small (ours)", "", *[HOLE] * 5, "this run"] in rows


def test_pairs_of_encoders_stand_beside_table_1(tmp_path: Path) -> None:
    rows = [
        {"text": "MiniLM", "fusion": fusion, "fold": 1, "seed": 0, "single": single, "multi": 0.1}
        for fusion, single in (("early", 0.55), ("late", 0.5))
    ]
    write(tmp_path / "records" / "07_encoder_pairs.json", {**record(), "config": {"steps": 3}, "rows": rows})
    write(tmp_path / "metrics.json", {"encoder_pairs": {"MiniLM, early": {"single": 55.0}}})
    found = table_rows(index_page(tmp_path, []))
    assert ["MiniLM (ours)", "55.0", "50.0", "5.0", "this run"] in found
    assert ["CLIP-B / CLIP-B", "52.1", "43.6", "8.5", "quoted from Fusioner, BMVC 2022"] in found


def test_a_record_that_can_t_be_read_leaves_a_note_and_a_page(run: Path) -> None:
    (run / "records" / "data.json").write_text("{broken")
    write(run / "records" / "04_ablations.json", {**record(seeds=2), "rows": [{"setting": "early"}]})
    page = html.unescape(index_page(run, notebooks_of(run)))
    assert "This record can't be compared with published results" in page and "{broken" in page and "43.2" in page
    (run / "metrics.json").write_text("[]")
    with pytest.raises(FusionerError, match="holds a list"):
        write_site(run)


def test_what_failed_is_told_with_the_place(run: Path) -> None:
    page = html.unescape(index_page(run, notebooks_of(run)))
    assert "1 of 2 notebooks failed" in page and f"KeyError: {EVIL}" in page
    assert f"line 7 of {EVIL}" in page and "\x1b" not in page


def test_in_a_browser_names_stay_text_and_nothing_is_asked_for(run: Path, browser: Any) -> None:
    index = write_site(run)
    pages = sorted((run / "pages").glob("*.html"))
    assert len(pages) == 2
    assert requests_of(browser, index, *pages) == []
    # Of the pages beside it too: the error and the title of a notebook hold the name.
    for page in (index, *pages):
        view = browser.new_page(viewport={"width": 390, "height": 800})
        view.goto(page.as_uri())
        assert EVIL in view.inner_text("body")
        assert view.title() != "taken" and view.locator("img:not([src^='data:'])").count() == 0
        view.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        view.close()


def test_links_lead_to_notebooks_whatever_they_are_called(run: Path, browser: Any) -> None:
    view = browser.new_page()
    view.goto(write_site(run).as_uri())
    links = view.locator("#notebooks a")
    assert links.count() == 4
    for address in links.evaluate_all("links => links.map(link => link.href)"):
        if address.endswith(".html"):
            view.goto(address)
            assert EVIL in view.inner_text("body")
        else:
            assert any(file.as_uri() == address for file in (run / "notebooks").iterdir())
    view.close()


@pytest.fixture
def thirty(tmp_path: Path) -> Path:
    """A run with thirty large figures of noise, which nothing compresses, one chart, and long records."""
    noise = np.random.default_rng(0)
    (tmp_path / "figures").mkdir()
    for place in range(30):
        # Richer than any sheet of photographs, and quick to draw.
        pixels = noise.integers(0, 256, (320, 430, 3), dtype=np.uint8)
        sheet = Image.fromarray(pixels).resize((860, 640), Image.Resampling.NEAREST)
        sheet.save(tmp_path / "figures" / f"01_sheet_{place:02}.png", compress_level=1)
    chart(tmp_path / "figures" / "02_chart.png")
    for place in range(60):
        (tmp_path / "records").mkdir(exist_ok=True)
        (tmp_path / "records" / f"job-{place}.json").write_text('"' * 50_000)
    return tmp_path


def chart(path: Path) -> Image.Image:
    picture = Image.new("RGB", (900, 500), "white")
    draw = ImageDraw.Draw(picture)
    for place in range(9):
        draw.rectangle((100 * place, 500 - 50 * place, 100 * place + 60, 500), fill=(0, 114, 178 + place))
        draw.text((100 * place, 10), f"figure {place}", fill="black")
    picture.save(path)
    return picture


def test_thirty_figures_fit_into_ten_megabytes_and_open_quickly(thirty: Path, browser: Any) -> None:
    page = thirty / "index.html"
    page.write_text(index_page(thirty, []))
    assert sum(file.stat().st_size for file in (thirty / "figures").iterdir()) > LIMIT
    assert 3_000_000 < page.stat().st_size < LIMIT
    view = browser.new_page(viewport={"width": 390, "height": 800})
    view.goto(page.as_uri())
    assert view.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart") < 2000
    assert view.locator("img").count() == 31
    assert view.evaluate("Math.min(...[...document.images].map(image => image.naturalWidth))") >= 250
    view.close()


def test_a_chart_keeps_every_pixel_and_the_order_is_kept(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    drawn = chart(tmp_path / "figures" / "b.png")
    Image.effect_noise((500, 400), 90).save(tmp_path / "figures" / "a.png")
    files = figures.figures_of(tmp_path)
    noise, kept = figures.shown(files, budget=100_000)
    assert [noise.file, kept.file] == files
    shown = Image.open(io.BytesIO(base64.b64decode(kept.uri.partition(",")[2])))
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(drawn))
    assert len(noise.data) + len(kept.data) <= 100_000


def test_figures_that_no_page_could_hold_are_named(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for place in range(figures.MOST + 2):
        Image.new("RGB", (4, 3)).save(tmp_path / "figures" / f"{place:03}.png")
    page = index_page(tmp_path, [])
    assert page.count("<img") == figures.MOST and "061.png" in page


def test_printed_tables_are_whole_and_the_menu_is_gone(run: Path, browser: Any) -> None:
    view = browser.new_page(viewport={"width": 680, "height": 900})
    view.goto(write_site(run).as_uri())
    view.emulate_media(media="print")
    assert not view.locator("nav").is_visible()
    cut = "[...document.querySelectorAll('.wide')].filter(box => box.scrollWidth > box.clientWidth).length"
    assert view.evaluate(cut) == 0
    assert view.evaluate("document.documentElement.scrollWidth") <= 680
    view.close()
