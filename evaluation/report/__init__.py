"""The report: one HTML file that needs no network, the same bytes for the same sweep."""

from evaluation.report.page import report_html

__all__ = ["report_html"]
