"""The docs site, built by `make docs`. Its source is the whole clone, so that links between pages, studies and
notebooks are the same on the site as in the repository."""

import inspect
import re
from pathlib import Path

from docutils.nodes import SkipNode

import fusionerlib
from workbook.report.notebook_pages import mathml

ROOT = Path(__file__).resolve().parents[1]
RENDERED = ROOT / "outputs" / "rendered"

project = "Fusioner workbook"
author = "The Fusioner workbook contributors"
copyright = f"{author}, Apache-2.0"
release = fusionerlib.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**.md",
    "studies/*/README.md",
    "notebooks/*.ipynb",
    "data/README.md",
    "outputs/README.md",
    "fusionerlib/checkpoint/README.md",
    "fusionerlib/datasets/splits/**README.md",
]
# Folders that are not searched.
exclude_patterns = [".venv", "docs/_*", "data/*/**", "outputs/*/**", "tests", "benchmarks", "**/.*"]

# Notebooks are committed without outputs; `make docs` executes copies of them, which are shown instead.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no widgets, so nothing to ask a CDN for
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"
smartquotes_action = "D"  # dashes; straight quotation marks stay: "" is a value
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# pydantic writes a generic signature of its own, and a field list that repeats the fields.
autodoc_default_options = {"exclude-members": "__new__,model_config,model_post_init"}

html_math_renderer = "mathml"  # MathJax would come from a CDN
html_theme = "furo"
html_title = "Fusioner workbook"
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_docs.html"}  # the start page is docs/index.html
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"


def fields(app, what, name, obj, options, lines):
    """Turn the house style of docstrings, ``size: pixels. stride: pixels.``, into reStructuredText's field lists."""
    if lines and lines[0].startswith("Alias for field number"):  # what Python writes for a NamedTuple's fields
        lines[:] = []
        return
    try:
        known = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        known = set()
    known |= set(getattr(obj, "__annotations__", {}))
    if not known:
        return
    start = re.compile(rf"(?:^|(?<=[.;] ))((?:{'|'.join(map(re.escape, sorted(known)))})(?:, [\w ]+)*): ")
    made = []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        first, *rest = paragraph.split("\n")
        if first.endswith(":") and rest:  # a list of values, one "value: meaning" a line
            made += [first, "", *(f"* {line.strip()}" if ": " in line else f"  {line.strip()}" for line in rest), ""]
            continue
        before, *parts = start.split(" ".join(paragraph.split()))
        if not parts:
            made += [*paragraph.split("\n"), ""]
            continue
        parts[-1], _, reason = parts[-1].partition("Raises FusionerError ")
        made += [before, ""]
        for names, meaning in zip(parts[::2], parts[1::2], strict=True):
            listed = names.split(", ")
            only = "".join(f"({each}) " for each in listed if each not in known)  # "offset, of training_free: ..."
            made += [f":param {each}: {only}{meaning.strip()}" for each in listed if each in known]
        made += [f":raises FusionerError: {reason}"] if reason else []
        made.append("")
    lines[:] = made


def rendered(app, docname, source):
    """Show the executed copy of a notebook where there is one."""
    copy = RENDERED / f"{docname.removeprefix('notebooks/')}.ipynb"
    if docname.startswith("notebooks/") and copy.is_file():
        source[0] = copy.read_text(encoding="utf-8")


def inline_formula(self, node):
    self.body.append(mathml(node.astext(), block=False))
    raise SkipNode


def block_formula(self, node):
    self.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>')
    raise SkipNode


def setup(app):
    app.connect("autodoc-process-docstring", fields)
    app.connect("source-read", rendered)
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
