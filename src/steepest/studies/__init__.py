# SPDX-License-Identifier: Apache-2.0
"""Claims of the literature, measured again. Every public module of this package is one study.

A study's module defines `STUDY`; nothing else has to be edited when one is added. What an algorithm needs lives in the
layers below; a study only measures through their public interfaces. `run` gives a record, the record a verdict for each
claim; records of the package are in `records/`, and the pages under `docs/studies/` follow from them.
"""

import importlib
import pkgutil

from steepest.studies._figure import figure, save_figure
from steepest.studies._pages import ledger, page, pages, readme_rows, shown_numbers, write_pages
from steepest.studies._records import RECORDS, changed, load, numbers, run, save, standing, verdicts
from steepest.studies._study import BUDGETS, Budget, Claim, Numbers, Paper, Run, Study, Verdict, judge

__all__ = [
    "BUDGETS",
    "RECORDS",
    "Budget",
    "Claim",
    "Numbers",
    "Paper",
    "Run",
    "Study",
    "Verdict",
    "changed",
    "figure",
    "find",
    "get",
    "judge",
    "keys",
    "ledger",
    "load",
    "numbers",
    "page",
    "pages",
    "readme_rows",
    "run",
    "save",
    "save_figure",
    "shown_numbers",
    "standing",
    "verdicts",
    "write_pages",
]


def keys() -> list[str]:
    """Return the keys of all studies, in alphabetical order, without importing them."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))


def get(key: str) -> Study:
    """Return one study.

    Args:
        key: Its name, one of `keys()`.

    Returns:
        The study.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> get("exp_accuracy").paper.year
        2020
    """
    if key not in keys():
        raise ValueError(f"no study is named {key!r}; there are {', '.join(keys())}")
    return importlib.import_module(f"{__name__}.{key}").STUDY


def find() -> list[Study]:
    """Return all studies, in the order of their keys."""
    return [get(key) for key in keys()]
