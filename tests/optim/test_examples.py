"""Every example of the package's docstrings runs."""

import doctest
import importlib
import pkgutil

import pytest

from steepest import optim


@pytest.mark.parametrize("module", sorted(module.name for module in pkgutil.iter_modules(optim.__path__)))
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(f"steepest.optim.{module}")).failed == 0
