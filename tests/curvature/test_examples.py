"""Every example of the package's docstrings runs."""

import doctest
import importlib
import pkgutil

import pytest

from steepest import curvature


@pytest.mark.parametrize("module", sorted(module.name for module in pkgutil.iter_modules(curvature.__path__)))
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(f"steepest.curvature.{module}")).failed == 0
