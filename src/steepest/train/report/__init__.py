# SPDX-License-Identifier: Apache-2.0
"""Pictures and pages of runs: `loss.png`, `report.html`, and comparisons of several runs."""

from steepest.train.report.comparison import write_comparison
from steepest.train.report.figure import write_loss_figure
from steepest.train.report.metrics import Metrics, read_metrics
from steepest.train.report.page import write_html_report
from steepest.train.report.run import Run, read_run

__all__ = [
    "Metrics",
    "Run",
    "read_metrics",
    "read_run",
    "write_comparison",
    "write_html_report",
    "write_loss_figure",
]
