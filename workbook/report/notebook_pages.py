"""An executed notebook as one HTML file that makes no network request: no scripts, and images embedded."""

import html
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text
from workbook.execution import without_iri_grammar
from workbook.sharing import clone_around, places_of, shareable

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of every page: a browser that follows it fetches nothing, whatever the markup asks for."""

FETCHING = ("script", "iframe", "object", "embed", "base", "link", "audio", "video", "source", "track", "frame")
"""Elements that fetch another resource; they are removed."""

FETCHING_CSS = re.compile(r"""@import[^;]*;?|url\(\s*["']?(?!["']?(data:|\#))[^)]*\)""", re.IGNORECASE)
"""What a style sheet fetches: imports, and URLs that are neither ``data:`` nor a place in the page."""

WIDGET = "application/vnd.jupyter.widget-view+json"


FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?=\S)([^$]+?)(?<=\S)\$(?![\w$])", re.DOTALL)
"""TeX in a Markdown cell: a formula on lines of its own, or one inside a line."""


LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s]+)\)")
"""A link in a committed notebook to another file of the clone, relative to ``notebooks``; its text, its target."""


def write_page(executed: Path, page: Path, *, index: str = "../index.html", stems: Sequence[str] = ()) -> None:
    """Write ``page`` (HTML) from an executed notebook, with links to ``index``, the page before and the page after.

    stems: the notebooks of the run that have pages, in their order.
    Raises FusionerError where the file is no notebook.
    """
    without_iri_grammar()
    import nbformat
    from nbconvert import HTMLExporter

    try:
        notebook = nbformat.read(executed, as_version=4)
    except Exception as error:
        raise FusionerError(f"{executed} can't be read as a notebook ({error}): execute it again") from error
    exporter = HTMLExporter(
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        mermaid_js_url="",
        mermaid_layout_elk_js_url="",
        jupyter_widgets_base_url="",
        widget_renderer_url="",
    )
    # Of a notebook that plain papermill executed, paths are still those of this machine.
    given = notebook.metadata.get("papermill", {}).get("parameters")
    clone = clone_around(executed.parent).resolve()
    places = places_of(clone, executed.absolute(), given)
    # Pictures in the text count from the committed notebook; nbconvert embeds those below its path alone.
    where = {"name": executed.stem, "path": str(clone)}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        text = cell.source.replace("](../docs/pictures/", "](docs/pictures/")
        cell.source = LINK.sub(lambda found: _relinked(found, source=clone / "notebooks", page=page), text)
    text, _ = exporter.from_notebook_node(
        nbformat.from_dict(shareable(without_widgets(notebook), places)), resources={"metadata": where}
    )
    links = {"All results": index}
    if executed.stem in stems:
        place = list(stems).index(executed.stem)
        before, after = stems[max(place - 1, 0) : place], stems[place + 1 : place + 2]
        links |= {f"Before: {_spoken(stem)}": f"{stem}.html" for stem in before}
        links |= {f"Next: {_spoken(stem)}": f"{stem}.html" for stem in after}
    write_text(page, static_page(text, links=links))


def dark_theme() -> str:
    """JupyterLab's dark theme as nbconvert brings it, for screens whose reader prefers dark; "" where it is missing."""
    from jupyter_core.paths import jupyter_path

    files = [Path(folder) / "theme-dark.css" for folder in jupyter_path("nbconvert", "templates", "lab", "static")]
    found = next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")
    return f"@media screen and (prefers-color-scheme: dark) {{\n{found}\n}}\n" if found else ""


def _relinked(found: re.Match[str], *, source: Path, page: Path) -> str:
    """The link as it counts from ``page``; its text alone where the page lies outside the clone."""
    target, folder = (source / found[2]).resolve(), page.resolve().parent
    if not folder.is_relative_to(source.parent):
        return found[1]
    return f"[{found[1]}]({Path(os.path.relpath(target, folder)).as_posix()})"


def _spoken(stem: str) -> str:
    """``02_training`` as "2 training"."""
    return stem.lstrip("0").replace("_", " ")


def without_widgets(notebook: Any) -> Any:
    """``notebook`` without the state of its widgets; their static image or text stays."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if set(output.get("data", {})) - {WIDGET}:
                output["data"].pop(WIDGET, None)
    return notebook


def mathml(tex: str, *, block: bool) -> str:
    """A formula as MathML, which browsers show without a script. What is no valid TeX stays as it is, escaped."""
    from latex2mathml.converter import convert

    try:
        return str(convert(tex, display="block" if block else "inline"))
    except Exception:  # the converter has a class for each mistake, without a common one
        return html.escape(tex)


def _with_formulas(soup: Any) -> None:
    """Replace TeX in rendered Markdown, outside code, by MathML."""
    from bs4 import BeautifulSoup

    for place in soup.select(".jp-RenderedMarkdown"):
        for text in place.find_all(string=FORMULA):
            if text.find_parent(["code", "pre"]):
                continue
            shown = ""
            end = 0
            for match in FORMULA.finditer(text):
                shown += html.escape(text[end : match.start()]) + mathml(match[1] or match[2], block=bool(match[1]))
                end = match.end()
            text.replace_with(BeautifulSoup(shown + html.escape(text[end:]), "html.parser"))


def static_page(text: str, *, links: Mapping[str, str]) -> str:
    """HTML without anything that fetches, with formulas as MathML. An image that is not embedded becomes its name.

    links: at the top and at the bottom of the page, address by text.

    Raises FusionerError where ``text`` has no head or no body.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    for element in soup.find_all(FETCHING):
        element.decompose()
    for element in soup.find_all("meta", attrs={"http-equiv": True}):
        element.decompose()
    for element in soup.find_all(True):
        handlers = [name for name in element.attrs if name.startswith("on")]
        for name in ("srcset", "background", "poster", "ping", *handlers):
            element.attrs.pop(name, None)
        if "style" in element.attrs:
            element.attrs["style"] = FETCHING_CSS.sub("none", str(element.attrs["style"]))
        if element.name == "style" and element.string:
            element.string = FETCHING_CSS.sub("none", element.string)
        source = element.attrs.get("src")
        if source is not None and not str(source).startswith("data:"):
            element.replace_with(f"[not embedded: {element.attrs.get('alt') or source}]")
    head, body = soup.head, soup.body
    if head is None or body is None:
        raise FusionerError(f"a page without head and body can't be made static: {text[:60]!r}")
    head.insert(0, BeautifulSoup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">', "html.parser"))
    style = dark_theme() + (resources.files("workbook.report") / "notebook_pages.css").read_text(encoding="utf-8")
    head.append(BeautifulSoup(f"<style>\n{style}</style>", "html.parser"))
    _with_formulas(soup)
    anchors = "".join(f'<a href="{html.escape(address)}">{html.escape(name)}</a>' for name, address in links.items())
    for place, name in ((0, "Pages"), (len(body.contents) + 1, "Pages, again")):
        body.insert(place, BeautifulSoup(f'<nav class="back" aria-label="{name}">{anchors}</nav>', "html.parser"))
    return str(soup)
