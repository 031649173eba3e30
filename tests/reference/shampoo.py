"""Shampoo in float64 NumPy, one matrix at a time, written from its formula."""

import numpy as np


def inverse_root(factor: np.ndarray, exponent: float, eps: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(factor)
    values = np.maximum(values, 0)
    if values[-1] == 0:
        return np.eye(len(factor))
    return vectors @ np.diag((values + eps * values[-1]) ** -exponent) @ vectors.T


def shampoo_steps(
    weights: np.ndarray,
    gradients: list[np.ndarray],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    exponent: float = 0.25,
    accumulation: str = "ema",
    eps: float = 1e-6,
    frequency: int = 10,
    longest: int = 8192,
    grafting: str = "adam",
    weight_decay: float = 0.0,
) -> np.ndarray:
    w, (m, n) = weights.astype(np.float64), weights.shape
    factors, roots = [np.zeros((m, m)), np.zeros((n, n))], [np.eye(m), np.eye(n)]
    mean, square = np.zeros((m, n)), np.zeros((m, n))
    short = [side for side in (0, 1) if w.shape[side] <= longest]
    power = exponent * (2 if len(short) == 1 else 1)
    for t, g in enumerate(gradients, 1):
        mean = betas[0] * mean + (1 - betas[0]) * g
        square = betas[1] * square + (1 - betas[1]) * g**2
        unbiased = mean / (1 - betas[0] ** t)
        for side, gram in enumerate((g @ g.T, g.T @ g)):
            factors[side] = (
                betas[1] * factors[side] + (1 - betas[1]) * gram if accumulation == "ema" else (factors[side] + gram)
            )
        if t % frequency == 1 % frequency:
            for side in short:
                scale = 1 - betas[1] ** t if accumulation == "ema" else 1.0
                roots[side] = inverse_root(factors[side] / scale, power, eps)
        u = roots[0] @ unbiased @ roots[1]
        if grafting != "none":
            other = unbiased
            if grafting == "adam":
                other = unbiased / (np.sqrt(square / (1 - betas[1] ** t)) + 1e-8)
            length = np.linalg.norm(u)
            u = u * (np.linalg.norm(other) / length if length else 0.0)
        w = w * (1 - lr * weight_decay) - lr * u
    return w
