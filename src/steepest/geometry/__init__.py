# SPDX-License-Identifier: Apache-2.0
"""Norms with their duals and linear minimization oracles, polar iterations, normalizations, subspaces, manifolds."""

from steepest.geometry.certify import Certificate
from steepest.geometry.design import design_iteration
from steepest.geometry.polar import choose_method, polar_factor
from steepest.geometry.polar_iteration import PolarIteration, published_iteration

__all__ = [
    "Certificate",
    "PolarIteration",
    "choose_method",
    "design_iteration",
    "polar_factor",
    "published_iteration",
]
