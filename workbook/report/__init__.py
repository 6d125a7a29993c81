"""The report of a run: its page, the pages of its notebooks, and its results as a table in the terminal."""

from workbook.report.page import index_page, write_site
from workbook.report.records import NotebookRun, Table, failures, notebooks_of, read_metrics, tables, terminal_table

__all__ = [
    "NotebookRun",
    "Table",
    "failures",
    "index_page",
    "notebooks_of",
    "read_metrics",
    "tables",
    "terminal_table",
    "write_site",
]
