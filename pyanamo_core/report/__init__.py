"""Views of a ledger for people: the table of results (TSV, CSV, JSON) and an HTML report that works offline.

Everything here only reads: the ledger is the truth, a report is a picture of it at one moment.
"""

from __future__ import annotations

from pyanamo_core.report.export import Format, export
from pyanamo_core.report.html import Section, collect, render, write_report
from pyanamo_core.report.losses import Loss, Losses, losses
from pyanamo_core.report.results import Result, results

__all__ = [
    "Format",
    "Loss",
    "Losses",
    "Result",
    "Section",
    "collect",
    "export",
    "losses",
    "render",
    "results",
    "write_report",
]
