"""M-FAC in float64 NumPy: the dense inverse, and the sequential Sherman-Morrison recursion of the paper."""

import numpy as np


def dense_direction(rows: np.ndarray, x: np.ndarray, *, damping: float, count: int) -> np.ndarray:
    """Solve with F = damping I + rows^T rows / count."""
    return np.linalg.solve(damping * np.eye(rows.shape[1]) + rows.T @ rows / count, x)


def recursive_direction(rows: np.ndarray, x: np.ndarray, *, damping: float, count: int) -> np.ndarray:
    """The static algorithm: v_i = F_{i-1}^{-1} g_i for one rank-one term after the other."""
    vs: list[tuple[np.ndarray, float]] = []

    def apply(y: np.ndarray) -> np.ndarray:
        result = y / damping
        for v, size in vs:
            result = result - v * (v @ y) / size
        return result

    for g in rows:
        v = apply(g)
        vs.append((v, count + g @ v))
    return apply(x)


def mfac_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    *,
    lr: float,
    window: int,
    damping: float,
    momentum: float,
    weight_decay: float,
    average: str,
) -> np.ndarray:
    """All parameters as one vector."""
    w, v = weights.astype(np.float64), np.zeros(weights.shape)
    rows: list[np.ndarray] = []
    for gradient in gradients:
        g = gradient + weight_decay * w
        rows = [*rows, g][-window:]
        count = window if average == "window" else len(rows)
        v = momentum * v + (1 - momentum) * dense_direction(np.stack(rows), g, damping=damping, count=count)
        w = w - lr * v
    return w
