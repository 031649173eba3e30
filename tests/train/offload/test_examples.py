"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

from steepest.train import offload

MODULES = [f"{offload.__name__}.{info.name}" for info in pkgutil.iter_modules(offload.__path__)]


@pytest.mark.parametrize("module", [*MODULES, "steepest.kernels.checksum"])
def test_examples_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
