# SPDX-License-Identifier: Apache-2.0
"""Norms and their oracles, polar iterations, normalizations, subspaces, manifolds, convex sets, mirror maps."""

from steepest.geometry._exact import exact_polar
from steepest.geometry.certify import Certificate
from steepest.geometry.conv import SpectralConv, TapConv
from steepest.geometry.dct import dct, dct_matrix, inverse_dct
from steepest.geometry.design import design_iteration
from steepest.geometry.domain import Ball, Box, Domain, Simplex
from steepest.geometry.entrywise import L1, RMS, BiasRMS, Frobenius, MaxEntry, Sign
from steepest.geometry.lines import ColumnNorm, L1ToRMS, RMSToInf, RowNorm
from steepest.geometry.manifold import Manifold, Oblique, RowSphere, SpectralSphere, Sphere, Stiefel
from steepest.geometry.mirror import Entropy, Euclidean, MirrorMap, PNorm
from steepest.geometry.modular import Atom, Bond, Modular
from steepest.geometry.multinorm import Normalized, alternate
from steepest.geometry.norm import Norm, Scaled, Transposed, steepest_direction
from steepest.geometry.polar import choose_method, polar_factor
from steepest.geometry.polar_iteration import PolarIteration, published_iteration
from steepest.geometry.product import Product
from steepest.geometry.sinkhorn import sinkhorn, sinkhorn_step_
from steepest.geometry.spectral import Nuclear, RMSToRMS, Schatten, Spectral
from steepest.geometry.subspace import (
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
from steepest.geometry.whitening import whiten

__all__ = [
    "L1",
    "RMS",
    "Atom",
    "Ball",
    "BiasRMS",
    "Bond",
    "Box",
    "Certificate",
    "ColumnNorm",
    "DCTSubspace",
    "Domain",
    "Entropy",
    "Euclidean",
    "Frobenius",
    "L1ToRMS",
    "Manifold",
    "MaxEntry",
    "MirrorMap",
    "Modular",
    "Norm",
    "Normalized",
    "Nuclear",
    "Oblique",
    "PNorm",
    "PolarIteration",
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
    "Simplex",
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
    "choose_method",
    "compress_with_feedback",
    "dct",
    "dct_matrix",
    "design_iteration",
    "exact_polar",
    "inverse_dct",
    "polar_factor",
    "published_iteration",
    "select_top",
    "sinkhorn",
    "sinkhorn_step_",
    "steepest_direction",
    "whiten",
]
