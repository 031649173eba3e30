"""What the engine does around a direction, in float64 NumPy: caution, cautious decay, the sphere, clipping."""

import numpy as np


def cautious(direction, grad):
    mask = direction * grad > 0
    return direction * mask * (mask.size / max(1, mask.sum()))


def clipped(grad, limit, norm=np.linalg.norm):
    size = norm(grad)
    return grad * (limit / size) if size > limit else grad


def on_sphere(w, direction, radius, lr):
    moved = w - lr * radius * direction / np.linalg.norm(direction)
    return radius * moved / np.linalg.norm(moved)


def momentum_steps(w, gradients, *, lr, momentum, caution=False, clip=np.inf, radius=None, nesterov=False):
    """SGD with momentum, and around it what is asked for."""
    w, buffer = w.astype(np.float64), np.zeros(w.shape)
    for g in gradients:
        g = clipped(g, clip)
        buffer = momentum * buffer + g
        u = g + momentum * buffer if nesterov else buffer
        u = cautious(u, g) if caution else u
        w = on_sphere(w, u, radius, lr) if radius is not None else w - lr * u
    return w
