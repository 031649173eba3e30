"""Adam, its relatives and every way of weight decay, in float64 NumPy, one parameter at a time."""

import numpy as np


def adam_steps(
    w,
    gradients,
    *,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decay="decoupled",
    amsgrad=False,
    momentum_decay=None,
    base_lr=None,
):
    """`lr` is one number or one a step; `momentum_decay` makes it NAdam."""
    w = w.astype(np.float64)
    m, v, largest, product = (np.zeros(w.shape) for _ in range(4))
    product = 1.0
    lrs = [lr] * len(gradients) if np.isscalar(lr) else lr
    base_lr = lrs[0] if base_lr is None else base_lr
    beta1, beta2 = betas
    for t, (g, eta) in enumerate(zip(gradients, lrs, strict=True), start=1):
        if decay == "l2":
            g = g + weight_decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - beta2**t)) + eps
        if momentum_decay is None:
            u = m / (1 - beta1**t) / root
        else:
            now, after = (beta1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
            product *= now
            u = (after * m / (1 - product * after) + (1 - now) * g / (1 - product)) / root
        if decay == "decoupled":
            w = w - eta * weight_decay * w
        elif decay == "independent":
            w = w - weight_decay * eta / base_lr * w
        elif decay == "cautious":
            w = np.where(u * w >= 0, w - eta * weight_decay * w, w)
        w = w - eta * u
    return w
