"""Optimistic mirror descent in float64 NumPy, from its two minimizations, for one vector."""

import numpy as np


def onto_simplex(x, total=1.0):
    """The nearest point by bisection of the threshold."""
    low, high = x.min() - total, x.max()
    for _ in range(200):
        middle = (low + high) / 2
        if np.maximum(x - middle, 0).sum() > total:
            low = middle
        else:
            high = middle
    return np.maximum(x - high, 0)


def onto_ball(x, radius=1.0):
    length = np.linalg.norm(x)
    return x if length <= radius else x * radius / length


def euclidean_step(project):
    return lambda x, eta_g: project(x - eta_g)


def entropy_step(x, eta_g):
    """On the simplex: the argmin has x exp(-eta g), divided by its sum."""
    y = x * np.exp(-(eta_g - eta_g.min()))
    return y / y.sum()


def optimistic_points(x1, gradient, *, step, rates, norm=None, offset=None, optimistic=True):
    """Points played; `gradient(t, x)`; `step(x, eta g)` solves the minimization; `rates` one number or one a round."""
    secondary, played, last, variation = x1.astype(float), x1.astype(float), np.zeros_like(x1, float), 0.0
    seen = []
    for t, eta in enumerate(rates):
        g = gradient(t, played)
        now = eta if offset is None else eta / np.sqrt(offset + variation)
        if offset is not None:
            variation += norm(g - last) ** 2
        after = eta if offset is None else eta / np.sqrt(offset + variation)
        secondary = step(secondary, now * g)
        played = step(secondary, after * g) if optimistic else secondary
        last = g
        seen.append(played)
    return seen
