# SPDX-License-Identifier: Apache-2.0
"""Norms with their duals and linear minimization oracles, polar iterations, normalizations, subspaces, manifolds."""

from ._exact import exact_polar
from .conv import SpectralConv, TapConv
from .dct import dct, dct_matrix, inverse_dct
from .entrywise import L1, RMS, BiasRMS, Frobenius, MaxEntry, Sign
from .lines import ColumnNorm, L1ToRMS, RMSToInf, RowNorm
from .manifold import Manifold, Oblique, RowSphere, SpectralSphere, Sphere, Stiefel
from .modular import Atom, Bond, Modular
from .multinorm import Normalized, alternate
from .norm import Norm, Scaled, Transposed, steepest_direction
from .product import Product
from .sinkhorn import sinkhorn
from .spectral import Nuclear, RMSToRMS, Schatten, Spectral
from .subspace import (
    DCTSubspace,
    Projection,
    RandomizedSubspace,
    RandomSubspace,
    Subspace,
    SVDSubspace,
    change_of_basis,
    compress_with_feedback,
    select_top,
)
from .whitening import whiten

__all__ = [
    "L1",
    "RMS",
    "Atom",
    "BiasRMS",
    "Bond",
    "ColumnNorm",
    "DCTSubspace",
    "Frobenius",
    "L1ToRMS",
    "Manifold",
    "MaxEntry",
    "Modular",
    "Norm",
    "Normalized",
    "Nuclear",
    "Oblique",
    "Product",
    "Projection",
    "RMSToInf",
    "RMSToRMS",
    "RandomSubspace",
    "RandomizedSubspace",
    "RowNorm",
    "RowSphere",
    "SVDSubspace",
    "Scaled",
    "Schatten",
    "Sign",
    "Spectral",
    "SpectralConv",
    "SpectralSphere",
    "Sphere",
    "Stiefel",
    "Subspace",
    "TapConv",
    "Transposed",
    "alternate",
    "change_of_basis",
    "compress_with_feedback",
    "dct",
    "dct_matrix",
    "exact_polar",
    "inverse_dct",
    "select_top",
    "sinkhorn",
    "steepest_direction",
    "whiten",
]
