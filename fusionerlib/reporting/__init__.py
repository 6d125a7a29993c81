"""What a run left behind, for people: its index page, the pages of its notebooks, its results in a terminal."""

from fusionerlib.reporting.executed import Ran, failures, notebooks_of
from fusionerlib.reporting.measured import Table, tables, terminal_table
from fusionerlib.reporting.page import index_page, write_site
from fusionerlib.reporting.reading import read_metrics

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
