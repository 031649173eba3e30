"""Every example of the package's docstrings, and every code block of its page, runs."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest

import steepest.geometry as geometry

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "geometry" / "norms.md"
MODULES = sorted(module.name for module in pkgutil.iter_modules(geometry.__path__))
NORMS = [n for n, v in vars(geometry).items() if isinstance(v, type) and issubclass(v, geometry.Norm)]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(f"steepest.geometry.{module}")).failed == 0


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_page_examples(block):
    exec(compile(block, str(PAGE), "exec"), {})


def test_the_page_has_a_row_for_every_norm():
    table = PAGE.read_text().partition("## The norms")[2].partition("## Whole models")[0]
    assert [name for name in NORMS if name != "Norm" and f"`{name}(" not in table] == []
