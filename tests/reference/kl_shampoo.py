"""KL-Shampoo and KL-SOAP in float64 NumPy, one matrix at a time, written from their formulas."""

import numpy as np


def kl_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    first_bases: list[np.ndarray],
    *,
    adam: bool,
    lr: float,
    betas: tuple[float, float] = (0.95, 0.95),
    eps: float = 1e-8,
    frequency: int = 10,
) -> np.ndarray:
    """The first bases are given, as in the reference of SOAP; `adam` is KL-SOAP."""
    w, (m, n) = weights.astype(np.float64), weights.shape
    left, right = first_bases
    row, column = np.full(m, 0.1), np.full(n, 0.1)
    mean, square = np.zeros((m, n)), np.zeros((m, n))
    beta = betas[1]
    first = gradients[0]
    factors = [(1 - beta) * first @ first.T / n, (1 - beta) * first.T @ first / m]
    for t, g in enumerate(gradients[1:], 1):
        mean = betas[0] * mean + (1 - betas[0]) * g
        turned = left.T @ mean @ right
        if adam:
            square = beta * square + (1 - beta) * (left.T @ g @ right) ** 2
            turned = turned / (np.sqrt(square) + eps)
        else:
            turned = turned / (np.sqrt(np.outer(row, column)) + eps)
        w = w - lr * left @ turned @ right.T
        grams = [
            g @ right @ np.diag(1 / column) @ right.T @ g.T / n,
            g.T @ left @ np.diag(1 / row) @ left.T @ g / m,
        ]
        row = beta * row + (1 - beta) * np.diag(left.T @ grams[0] @ left)
        column = beta * column + (1 - beta) * np.diag(right.T @ grams[1] @ right)
        row, column = (np.maximum(x, min(max(10, len(x)), 4000) ** -2.0) for x in (row, column))
        factors = [beta * f + (1 - beta) * gram for f, gram in zip(factors, grams, strict=True)]
        if t % frequency == 0:
            left, right = (np.linalg.qr(f @ q)[0] for f, q in zip(factors, (left, right), strict=True))
    return w
