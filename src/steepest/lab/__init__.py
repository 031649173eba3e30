# SPDX-License-Identifier: Apache-2.0
"""Comparisons of optimizers that are fair: equal tuning, several seeds, rules fixed beforehand."""

from steepest.lab.comparison import Comparison, Method, Range, method_of, read, same_rules, write
from steepest.lab.runner import run_all
from steepest.lab.setup import base_config, methods_of, with_data
from steepest.lab.statistics import bootstrap_interval, holm, paired_p
from steepest.lab.table import Outcome, Row, outcome

__all__ = [
    "Comparison",
    "Method",
    "Outcome",
    "Range",
    "Row",
    "base_config",
    "bootstrap_interval",
    "holm",
    "method_of",
    "methods_of",
    "outcome",
    "paired_p",
    "read",
    "run_all",
    "same_rules",
    "with_data",
    "write",
]
