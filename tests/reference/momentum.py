"""Methods with one buffer, in float64 NumPy, each written from its formula for one parameter."""

import numpy as np


def sgd_steps(w, gradients, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    w, buffer = w.astype(np.float64), None
    for g in gradients:
        g = g + weight_decay * w
        if momentum:
            buffer = g.copy() if buffer is None else momentum * buffer + (1 - dampening) * g
            g = g + momentum * buffer if nesterov else buffer
        w = w - lr * g
    return w


def nesterov_points(x0, gradient, *, lr, momenta):
    """Iterates x and points y of the two-sequence form; `gradient(y)`, and one momentum a step."""
    x, y, seen = x0.astype(np.float64), x0.astype(np.float64), []
    for b in momenta:
        new = y - lr * gradient(y)
        x, y = new, new + b * (new - x)
        seen.append((x, y))
    return seen


def signum_steps(w, gradients, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    w, buffer = w.astype(np.float64), np.zeros(w.shape)
    for g in gradients:
        buffer = momentum * buffer + (1 - momentum) * g
        target = momentum * buffer + (1 - momentum) * g if nesterov else buffer
        w = (1 - lr * weight_decay) * w - lr * np.sign(target)
    return w


def lion_steps(w, gradients, *, lr, betas, weight_decay=0.0):
    w, buffer = w.astype(np.float64), np.zeros(w.shape)
    for g in gradients:
        direction = np.sign(betas[0] * buffer + (1 - betas[0]) * g)
        w = (1 - lr * weight_decay) * w - lr * direction
        buffer = betas[1] * buffer + (1 - betas[1]) * g
    return w


def chebyshev_iterates(x0, gradient, *, largest, smallest, steps):
    """The semi-iteration in its three-term form, with the weights of the textbook's recursion."""
    center, spread = (largest + smallest) / 2, (largest - smallest) / (largest + smallest)
    before, x, weight = None, x0.astype(np.float64), 1.0
    seen = []
    for t in range(1, steps + 1):
        plain = x - gradient(x) / center
        if t == 1:
            new = plain
        else:
            weight = 1 / (1 - spread**2 / 2) if t == 2 else 1 / (1 - weight * spread**2 / 4)
            new = weight * (plain - before) + before
        before, x = x, new
        seen.append(x)
    return seen
