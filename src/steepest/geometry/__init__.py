# SPDX-License-Identifier: Apache-2.0
"""Norms with their duals and linear minimization oracles, polar iterations, normalizations, subspaces, manifolds."""
