"""Notebooks as a workbook: their parameters, their execution, and profiles of whole runs."""
