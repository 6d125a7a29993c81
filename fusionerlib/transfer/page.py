"""The Markdown page of a transfer study: what `modern` is and why, in words, and the study's tables."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from fusionerlib.files import write_text
from fusionerlib.reporting.markdown import markdown_table
from fusionerlib.transfer.study import TransferStudy

TEXTS = {
    "Controls": "A network that cannot read; the paper's module and recipe at the size of `small` with as many images "
    "seen; CLIP's text vectors (ViT-B/32) with a learned map. One name at a time the paper's recipe scores more: it "
    "paints what stands out, also for a name that is not there, and among 20 names almost nothing is right.",
    "Thresholds": "One threshold serves all folds; these are the same answers cut at others.",
    "Cost": "A training image at 224 pixels, all its names, forward and backward.",
    "One thing at a time": "Short trainings, each of which differs from `modern` in one thing; the row of `modern` has "
    "the spread that seeds alone make. `kept`: whether `modern` has it. What a setting named for a lack loses is what "
    "`modern` gains by having it; settings that would also do better after few steps may lose that lead after many.",
}
"""What stands above a table, by its title."""


def write_page(study: TransferStudy, tables: Mapping[str, Any]) -> None:
    """pandas ``tables`` by title into ``study.file``; what is missing is "-"."""
    parts = []
    for title, table in tables.items():
        rows = markdown_table(table.reset_index().to_dict("records"))
        parts.append("\n\n".join(part for part in (f"## {title}", TEXTS.get(title, ""), rows) if part))
    text = resources.files("fusionerlib.transfer").joinpath("page.md").read_text(encoding="utf-8")
    write_text(study.file, text.replace("{tables}", "\n".join(parts)))
