"""Norms and duals in float64 NumPy, from their definitions and by singular value decomposition."""

import math

import numpy as np


def _sigma(x):
    return np.linalg.svd(x, compute_uv=False)


def _conv_matrices(norm, x):
    """All the matrices of a convolution weight: one a group (flattened), or one a group and tap."""
    groups = np.split(x, norm.groups, axis=0)
    if type(norm).__name__ == "SpectralConv":
        return [group.reshape(group.shape[0], -1) for group in groups]
    flat = [group.reshape(*group.shape[:2], -1) for group in groups]
    return [group[..., tap] for group in flat for tap in range(group.shape[-1])]


def _conv_factor(norm, x):
    return math.prod(x.shape[2:]) * math.sqrt(x.shape[1] / (x.shape[0] / norm.groups))


def norm(kind, x):
    """Return the norm of one element `x`, a float64 array, for a norm object `kind`."""
    m, n = (x.shape[0], x.shape[1]) if x.ndim > 1 else (x.size, 1)
    rows, columns = (lambda: np.sqrt((x**2).sum(1)), lambda: np.sqrt((x**2).sum(0)))
    match type(kind).__name__:
        case "Frobenius":
            return np.sqrt((x**2).sum())
        case "RMS" | "BiasRMS":
            return np.sqrt((x**2).mean())
        case "Sign":
            return np.abs(x).max()
        case "MaxEntry":
            return n * np.abs(x).max()
        case "L1":
            return np.abs(x).sum()
        case "RowNorm":
            return rows().max() / (math.sqrt(n) if kind.rms else 1)
        case "ColumnNorm":
            return columns().max() / (math.sqrt(m) if kind.rms else 1)
        case "L1ToRMS":
            return max(np.sqrt((x[:, j] ** 2).mean()) for j in range(n))
        case "RMSToInf":
            return math.sqrt(n) * rows().max()
        case "Spectral":
            return _sigma(x)[0]
        case "RMSToRMS":
            return math.sqrt(n / m) * _sigma(x)[0]
        case "Nuclear":
            return _sigma(x).sum()
        case "Schatten":
            return np.linalg.norm(_sigma(x), kind.p)
        case "SpectralConv" | "TapConv":
            return _conv_factor(kind, x) * max(_sigma(matrix)[0] for matrix in _conv_matrices(kind, x))
        case "Scaled":
            return norm(kind.inner, x) / kind.radius
        case "Transposed":
            return norm(kind.inner, x.T)
        case name:
            raise NotImplementedError(f"write the float64 reference of {name}")


def dual(kind, g):
    """Return the dual norm of one element `g`."""
    m, n = (g.shape[0], g.shape[1]) if g.ndim > 1 else (g.size, 1)
    rows, columns = (lambda: np.sqrt((g**2).sum(1)), lambda: np.sqrt((g**2).sum(0)))
    match type(kind).__name__:
        case "Frobenius":
            return np.sqrt((g**2).sum())
        case "RMS" | "BiasRMS":
            return math.sqrt(g.size) * np.sqrt((g**2).sum())
        case "Sign":
            return np.abs(g).sum()
        case "MaxEntry":
            return np.abs(g).sum() / n
        case "L1":
            return np.abs(g).max()
        case "RowNorm":
            return rows().sum() * (math.sqrt(n) if kind.rms else 1)
        case "ColumnNorm":
            return columns().sum() * (math.sqrt(m) if kind.rms else 1)
        case "L1ToRMS":
            return math.sqrt(m) * columns().sum()
        case "RMSToInf":
            return rows().sum() / math.sqrt(n)
        case "Spectral":
            return _sigma(g).sum()
        case "RMSToRMS":
            return math.sqrt(m / n) * _sigma(g).sum()
        case "Nuclear":
            return _sigma(g)[0]
        case "Schatten":
            q = 1 / (1 - 1 / kind.p) if kind.p > 1 else math.inf
            return np.linalg.norm(_sigma(g), q)
        case "SpectralConv" | "TapConv":
            return sum(_sigma(matrix).sum() for matrix in _conv_matrices(kind, g)) / _conv_factor(kind, g)
        case "Scaled":
            return dual(kind.inner, g) * kind.radius
        case "Transposed":
            return dual(kind.inner, g.T)
        case name:
            raise NotImplementedError(f"write the float64 reference of {name}")
