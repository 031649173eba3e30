# SPDX-License-Identifier: Apache-2.0
"""Curvature of a loss as linear operators, and what can be learned from products with vectors alone."""

from steepest.curvature.lanczos import Eigenvalues, extreme_eigenvalues
from steepest.curvature.operator import Operator
from steepest.curvature.products import ggn, hessian

__all__ = ["Eigenvalues", "Operator", "extreme_eigenvalues", "ggn", "hessian"]
