"""DCT-AdamW in float64 NumPy, one matrix at a time, with the dense rotation of the moments, from its formula."""

import numpy as np


def cosines(n: int) -> np.ndarray:
    """Columns are the orthonormal cosines."""
    q = np.array([[np.sqrt(2 / n) * np.cos(np.pi * i * (2 * j + 1) / (2 * n)) for i in range(n)] for j in range(n)])
    q[:, 0] /= np.sqrt(2)
    return q


def largest_columns(s: np.ndarray, rank: int, order: int) -> np.ndarray:
    size = np.linalg.norm(s, order, axis=0)
    return np.sort(np.argsort(-size, kind="stable")[:rank])


def dct_adamw_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    *,
    lr: float,
    rank: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    gap: int = 1,
    feedback: bool = True,
    order: int = 1,
) -> np.ndarray:
    if weights.shape[0] < weights.shape[1]:
        settings = {"lr": lr, "rank": rank, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        return dct_adamw_steps(
            weights.T, [g.T for g in gradients], **settings, gap=gap, feedback=feedback, order=order
        ).T
    w, (m, n) = weights.astype(np.float64), weights.shape
    q, rank = cosines(n), min(rank, n)
    error, basis = np.zeros((m, n)), np.zeros((n, rank))
    mean, square = np.zeros((m, rank)), np.zeros((m, rank))
    for t, g in enumerate(gradients, 1):
        a = g + error if feedback else g
        if (t - 1) % gap == 0:
            new = q[:, largest_columns(a @ q, rank, order)]
            rotation = basis.T @ new
            mean, square, basis = mean @ rotation, np.abs(square @ rotation), new
        low = a @ basis
        if feedback:
            error = a - low @ basis.T
        mean = betas[0] * mean + (1 - betas[0]) * low
        square = betas[1] * square + (1 - betas[1]) * low**2
        u = mean / (1 - betas[0] ** t) / (np.sqrt(square / (1 - betas[1] ** t)) + eps)
        w = (1 - lr * weight_decay) * w - lr * u @ basis.T
    return w
