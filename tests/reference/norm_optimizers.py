"""Optimizers of the norm family in float64 NumPy, one weight at a time, written from the published formulas."""

import numpy as np


def polar(x: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    keep = s > max(x.shape) * np.finfo(x.dtype).eps * (s[0] if len(s) else 0)
    return (u * keep) @ vt


def schatten(x: np.ndarray, p: float) -> np.ndarray:
    """U (S / |S|_q)^(q - 1) V^T with 1/p + 1/q = 1."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    q = p / (p - 1)
    s = np.where(s > max(x.shape) * np.finfo(x.dtype).eps * s[0], s, 0)
    size = (s**q).sum() ** (1 / q)
    return (u * (s / size) ** (q - 1)) @ vt if size else np.zeros_like(x)


def averaged(w, gradients, direction, *, lr, momentum, nesterov, scale=1.0, weight_decay=0.0):
    """W <- (1 - lr wd) W - lr scale direction(mu B + (1 - mu) G), B an exponential average."""
    buffer = np.zeros_like(w)
    for g in gradients:
        buffer = momentum * buffer + (1 - momentum) * g
        target = momentum * buffer + (1 - momentum) * g if nesterov else buffer
        w = (1 - lr * weight_decay) * w - lr * scale * direction(target)
    return w


def normuon(w, gradients, *, lr, momentum, beta, eps=1e-10, weight_decay=0.0):
    buffer, v = np.zeros_like(w), np.zeros((w.shape[0], 1))
    for g in gradients:
        buffer = momentum * buffer + (1 - momentum) * g
        o = polar(momentum * buffer + (1 - momentum) * g)
        v = beta * v + (1 - beta) * (o**2).mean(axis=1, keepdims=True)
        even = o / (np.sqrt(v) + eps)
        if np.linalg.norm(even):
            even *= np.linalg.norm(o) / np.linalg.norm(even)
        w = (1 - lr * weight_decay) * w - lr * np.sqrt(max(1, w.shape[0] / w.shape[1])) * even
    return w


def sinkhorn(g: np.ndarray, steps: int) -> np.ndarray:
    x = g.copy()
    m, n = x.shape
    for _ in range(steps):
        rows = np.linalg.norm(x, axis=1, keepdims=True)
        x = np.sqrt(n) * x / np.where(rows == 0, 1, rows)
        columns = np.linalg.norm(x, axis=0, keepdims=True)
        x = np.sqrt(m) * x / np.where(columns == 0, 1, columns)
    return x


def stateless(w, gradients, direction, *, lr, weight_decay=0.0):
    for g in gradients:
        w = (1 - lr * weight_decay) * w - lr * direction(g)
    return w


def swan(g: np.ndarray, *, alpha: float, center: bool) -> np.ndarray:
    """Rows of root mean square one, whitened, of the length of the former."""
    g = g - g.mean(axis=1, keepdims=True) if center else g
    rows = np.linalg.norm(g, axis=1, keepdims=True)
    rows = np.sqrt(g.shape[1]) * g / np.where(rows == 0, 1, rows)
    return alpha * np.sqrt(max(g.shape)) * polar(rows)
