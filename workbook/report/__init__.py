"""What a run left behind, for people: its index page, the pages of its notebooks, its results in a terminal."""

from workbook.report.executed import Ran, failures, notebooks_of
from workbook.report.page import index_page, write_site
from workbook.report.results import Table, read_metrics, tables, terminal_table

__all__ = [
    "Ran",
    "Table",
    "failures",
    "index_page",
    "notebooks_of",
    "read_metrics",
    "tables",
    "terminal_table",
    "write_site",
]
