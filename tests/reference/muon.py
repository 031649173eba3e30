"""Muon in float64 NumPy, one matrix at a time, written from its formula with an exact polar factor."""

import numpy as np


def muon_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> np.ndarray:
    w, buffer = weights.astype(np.float64), np.zeros(weights.shape)
    for g in gradients:
        buffer = momentum * buffer + (1 - momentum) * g
        target = momentum * buffer + (1 - momentum) * g if nesterov else buffer
        u, s, vt = np.linalg.svd(target, full_matrices=False)
        keep = s > s.max(initial=0) * 1e-12
        polar = (u * keep) @ vt
        w = w * (1 - lr * weight_decay) - lr * np.sqrt(max(1, w.shape[0] / w.shape[1])) * polar
    return w
