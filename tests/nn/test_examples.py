"""Examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest
import torch

from steepest import nn

OURS = ("activation", "swish", "polyrelu", "polynorm", "feed_forward", "jumprelu")
MODULES = [*OURS, *(f"sae.{module.name}" for module in pkgutil.iter_modules([f"{nn.__path__[0]}/sae"]))]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of(module):
    torch.manual_seed(0)
    assert doctest.testmod(importlib.import_module(f"steepest.nn.{module}")).failed == 0
