"""An executed notebook as one HTML file that makes no network request: no scripts, and images embedded."""

import html
import re
from importlib import resources
from pathlib import Path
from typing import Any

from fusionerlib.errors import FusionerError
from fusionerlib.files import write_text

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of every page: a browser that follows it fetches nothing, whatever the markup asks for."""

FETCHING = ("script", "iframe", "object", "embed", "base", "link", "audio", "video", "source", "track", "frame")
"""Elements that fetch another resource; they are removed."""

FETCHING_CSS = re.compile(r"""@import[^;]*;?|url\(\s*["']?(?!["']?(data:|\#))[^)]*\)""", re.IGNORECASE)
"""What a style sheet fetches: imports, and URLs that are neither ``data:`` nor a place in the page."""

WIDGET = "application/vnd.jupyter.widget-view+json"


def write_page(executed: Path, page: Path, *, index: str = "../index.html") -> None:
    """Write ``page`` (HTML) from an executed notebook, with a link back to ``index``.

    Raises FusionerError where the file is no notebook.
    """
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
    where = {"name": executed.stem, "path": str(executed.parent)}
    text, _ = exporter.from_notebook_node(without_widgets(notebook), resources={"metadata": where})
    write_text(page, static_page(text, index=index))


def without_widgets(notebook: Any) -> Any:
    """``notebook`` without the state of its widgets; their static image or text stays."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if set(output.get("data", {})) - {WIDGET}:
                output["data"].pop(WIDGET, None)
    return notebook


def static_page(text: str, *, index: str) -> str:
    """HTML without anything that fetches. An image that is not embedded is replaced by its name.

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
    style = (resources.files("workbook.report") / "notebook_pages.css").read_text(encoding="utf-8")
    head.append(BeautifulSoup(f"<style>\n{style}</style>", "html.parser"))
    link = f'<nav class="back"><a href="{html.escape(index)}">back to the run</a></nav>'
    body.insert(0, BeautifulSoup(link, "html.parser"))
    return str(soup)
