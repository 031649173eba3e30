"""Trion and Dion2 in float64 NumPy, one matrix at a time, with an exact polar factor, from their formulas."""

import numpy as np

from tests.reference.dct_adamw import cosines, largest_columns


def polar(x: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (u * (s > s.max(initial=0) * 1e-12)) @ vt


def subspace_muon_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    *,
    q: np.ndarray,
    rank: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    order: int,
) -> np.ndarray:
    """For a basis of the short side: the cosines give Trion, the identity Dion2."""
    w, m = weights.astype(np.float64), np.zeros(weights.shape)
    scale = np.sqrt(max(1, w.shape[0] / w.shape[1]))
    wide = w.shape[0] < w.shape[1]
    for g in gradients:
        m = m + g
        a = m.T if wide else m
        basis = q[:, largest_columns(a @ q, rank, order)]
        low = a @ basis
        kept, u = (1 - momentum) * low @ basis.T, polar(low) @ basis.T
        m, u = (m - kept.T, u.T) if wide else (m - kept, u)
        w = (1 - lr * weight_decay) * w - lr * scale * u
    return w


def trion_steps(weights: np.ndarray, gradients: list[np.ndarray], *, rank: int, **settings) -> np.ndarray:
    n = min(weights.shape)
    return subspace_muon_steps(weights, gradients, q=cosines(n), rank=min(rank, n), **settings)


def dion2_steps(weights: np.ndarray, gradients: list[np.ndarray], *, fraction: float, **settings) -> np.ndarray:
    n = min(weights.shape)
    return subspace_muon_steps(weights, gradients, q=np.eye(n), rank=int(np.ceil(fraction * n)), **settings)
