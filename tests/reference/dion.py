"""Dion in float64 NumPy, one matrix at a time, with Gram-Schmidt for the orthonormal factor, from its formula."""

import numpy as np


def orthonormal(y: np.ndarray) -> np.ndarray:
    """Gram-Schmidt, each column twice."""
    columns: list[np.ndarray] = []
    for column in y.T:
        rest = column / np.linalg.norm(column)
        for _ in range(2):
            rest = rest - sum((c * (c @ rest) for c in columns), np.zeros_like(rest))
        columns.append(rest / np.linalg.norm(rest))
    return np.stack(columns, axis=1)


def dion_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    *,
    basis: np.ndarray,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> np.ndarray:
    w, m, q = weights.astype(np.float64), np.zeros(weights.shape), basis
    for g in gradients:
        m = m + g
        p = orthonormal(m @ q)
        r = m.T @ p
        m = m - (1 - momentum) * p @ r.T
        q = r / np.linalg.norm(r, axis=0)
        w = (1 - lr * weight_decay) * w - lr * np.sqrt(w.shape[0] / w.shape[1]) * p @ q.T
    return w
