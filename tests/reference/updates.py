"""Adam and momentum steps in float64 NumPy, one tensor at a time, written from their formulas."""

import numpy as np


def decayed(p, direction, *, lr, decay, weight_decay):
    """Weights after their decay, before the step."""
    if decay == "decoupled":
        return p * (1 - lr * weight_decay)
    if decay == "independent":
        return p * (1 - weight_decay)
    if decay == "cautious":
        return np.where(direction * p >= 0, p * (1 - lr * weight_decay), p)
    return p


def cautious_part(direction, g):
    keep = direction * g > 0
    return direction * keep * (direction.size / max(1, keep.sum()))


def adam_steps(
    p, gradients, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decay="decoupled", nadam=False,
    momentum_decay=4e-3, amsgrad=False, cautious=False, grad_scale=1.0, lr_scale=1.0,
):  # fmt: skip
    p = np.asarray(p, np.float64)
    m, v, largest, product = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p), 1.0
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64) * grad_scale + (weight_decay * p if decay == "l2" else 0)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - beta2**t)) + eps
        if nadam:
            mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
            product *= mu
            average = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        else:
            average = m / (1 - beta1**t)
        u = average / root
        if cautious:
            u = cautious_part(u, g)
        p = decayed(p, u, lr=lr, decay=decay, weight_decay=weight_decay) - lr * lr_scale * u
    return p


def momentum_steps(
    p, gradients, *, lr, momentum=0.0, rule="sgd", nesterov=False, dampening=0.0, sign=False, beta1=0.9,
    weight_decay=0.0, decay="decoupled", cautious=False, grad_scale=1.0, lr_scale=1.0,
):  # fmt: skip
    p = np.asarray(p, np.float64)
    b = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        g = np.asarray(g, np.float64) * grad_scale + (weight_decay * p if decay == "l2" else 0)
        if rule == "lion":
            u = np.sign(beta1 * b + (1 - beta1) * g)
            b = momentum * b + (1 - momentum) * g
        elif rule == "ema":
            b = momentum * b + (1 - momentum) * g
            u = momentum * b + (1 - momentum) * g if nesterov else b
        else:
            b = g if t == 1 else momentum * b + (1 - dampening) * g
            u = g + momentum * b if nesterov else b
        if sign:
            u = np.sign(u)
        if cautious:
            u = cautious_part(u, g)
        p = decayed(p, u, lr=lr, decay=decay, weight_decay=weight_decay) - lr * lr_scale * u
    return p
