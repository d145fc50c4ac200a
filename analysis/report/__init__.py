"""The report of a study: one HTML file with figures, tables and a page about one ticket."""

from analysis.report.write import write_report

__all__ = ["write_report"]
