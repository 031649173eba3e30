"""SOAP in float64 NumPy, one matrix at a time, written from its formula.

The first bases are given: where eigenvalues coincide (the null space of a gradient of low rank) eigenvectors are not
unique, and the method goes another way with another choice. `is_eigenbasis` says whether a choice is one.
"""

import numpy as np


def is_eigenbasis(basis: np.ndarray, factor: np.ndarray, tol: float = 1e-10) -> bool:
    """Whether the columns are orthonormal eigenvectors, those of the largest eigenvalues first."""
    turned = basis.T @ factor @ basis
    size = max(np.abs(factor).max(), 1e-300)
    diagonal = np.abs(turned - np.diag(np.diag(turned))).max() <= tol * size
    falling = bool((np.diff(np.diag(turned)) <= tol * size).all())
    return bool(diagonal) and falling and np.allclose(basis.T @ basis, np.eye(len(basis)), atol=tol)


def soap_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    first_bases: list[np.ndarray],
    *,
    lr: float,
    betas: tuple[float, float] = (0.95, 0.95),
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    frequency: int = 10,
    longest: int = 10000,
    correct_bias: bool = True,
) -> np.ndarray:
    w, (m, n) = weights.astype(np.float64), weights.shape
    beta = betas[1] if shampoo_beta is None else shampoo_beta
    factors = [np.zeros((m, m)), np.zeros((n, n))]
    bases = [np.eye(m), np.eye(n)]
    momentum, square = np.zeros((m, n)), np.zeros((m, n))
    for count, g in enumerate(gradients):
        if count > 0:
            turned = bases[0].T @ g @ bases[1]
            rotated = bases[0].T @ momentum @ bases[1]
            rotated = betas[0] * rotated + (1 - betas[0]) * turned
            momentum = bases[0] @ rotated @ bases[1].T
            square = betas[1] * square + (1 - betas[1]) * turned**2
            step = bases[0] @ (rotated / (np.sqrt(square) + eps)) @ bases[1].T
            size = lr * (np.sqrt(1 - betas[1] ** count) / (1 - betas[0] ** count) if correct_bias else 1.0)
            w = w * (1 - lr * weight_decay) - size * step
        for side, gram in enumerate((g @ g.T, g.T @ g)):
            factors[side] = beta * factors[side] + (1 - beta) * gram
        for side in (0, 1):
            if w.shape[side] > longest:
                continue
            if count == 0:
                bases[side] = first_bases[side]
            elif count % frequency == 0:
                quotients = np.array([q @ factors[side] @ q for q in bases[side].T])
                order = np.argsort(-quotients, kind="stable")
                bases[side] = np.linalg.qr(factors[side] @ bases[side][:, order])[0]
                square = square[order] if side == 0 else square[:, order]
    return w
