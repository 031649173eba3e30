# SPDX-License-Identifier: Apache-2.0
"""Comparisons of optimizers that are fair: equal tuning, several seeds, rules fixed beforehand."""

from steepest.lab.comparison import Comparison, Method, Pruning, Range, method_of, read, same_rules, write
from steepest.lab.optimum import Optimum, optimum
from steepest.lab.range_test import RangeTest, range_test
from steepest.lab.runner import run_all
from steepest.lab.setup import base_config, methods_of, with_data, with_task
from steepest.lab.statistics import bootstrap_interval, holm, paired_p
from steepest.lab.table import Outcome, Row, outcome
from steepest.lab.transfer import Transfer, scaling_of, transferred
from steepest.lab.tuning import Budget, Recommendation, tune

__all__ = [
    "Budget",
    "Comparison",
    "Method",
    "Optimum",
    "Outcome",
    "Pruning",
    "Range",
    "RangeTest",
    "Recommendation",
    "Row",
    "Transfer",
    "base_config",
    "bootstrap_interval",
    "holm",
    "method_of",
    "methods_of",
    "optimum",
    "outcome",
    "paired_p",
    "range_test",
    "read",
    "run_all",
    "same_rules",
    "scaling_of",
    "transferred",
    "tune",
    "with_data",
    "with_task",
    "write",
]
