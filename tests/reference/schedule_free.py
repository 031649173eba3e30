"""Schedule-free learning in float64 NumPy, written with its three sequences."""

import numpy as np


def schedule_free_steps(
    w, gradient, steps, direction, *, lr, momentum, weight_decay=0.0, warmup=0, lr_power=2.0, r=0.0
):
    """`gradient(y, t)`; `direction(g, t)` is what the base method makes of a gradient; returns (y, x, z) at the end."""
    z = x = y = w.astype(np.float64)
    total = largest = 0.0
    for t in range(1, steps + 1):
        eta = lr * min(1.0, t / warmup) if warmup else lr
        z = z - eta * (direction(gradient(y, t), t) + weight_decay * y)
        largest = max(largest, eta)
        weight = t**r * largest**lr_power
        total += weight
        c = weight / total
        x = (1 - c) * x + c * z
        y = (1 - momentum) * z + momentum * x
    return y, x, z
