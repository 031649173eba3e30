# SPDX-License-Identifier: Apache-2.0
"""Selection among candidates with several objectives, all minimized, as in NSGA-II."""

import numpy as np


def nondominated_ranks(objectives: np.ndarray) -> np.ndarray:
    """Return the front that each candidate belongs to: 0 for those that nobody dominates, 1 when these are gone, ...

    One candidate dominates another if it is nowhere worse and somewhere better.

    Args:
        objectives: Values to be made small, shape (candidates, objectives); inf is allowed, NaN is not.

    Returns:
        Ranks, shape (candidates,), int64.

    Raises:
        ValueError: If the array is not two-dimensional or holds NaN.

    Example:
        >>> nondominated_ranks(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
        [0, 0, 1]

    References:
        Deb, Pratap, Agarwal, Meyarivan (2002), A fast and elitist multiobjective genetic algorithm: NSGA-II.
    """
    values = _checked(objectives)
    no_worse = np.asarray((values[:, None, :] <= values[None, :, :]).all(axis=2))
    dominates = no_worse & ~no_worse.T
    ranks = np.full(len(values), -1, dtype=np.int64)
    blockers = dominates.sum(axis=0)
    rank = 0
    while (ranks < 0).any():
        front = (ranks < 0) & (blockers == 0)
        ranks[front] = rank
        blockers = blockers - dominates[front].sum(axis=0)
        rank += 1
    return ranks


def crowding_distance(objectives: np.ndarray) -> np.ndarray:
    """Return how far apart the neighbours of each candidate are along each objective, summed; inf at the ends.

    Args:
        objectives: Shape (candidates, objectives), one front.

    Returns:
        Distances, shape (candidates,), float64. Each objective is scaled by its finite range.

    Raises:
        ValueError: If the array is not two-dimensional or holds NaN.

    Example:
        >>> crowding_distance(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])).tolist()
        [inf, 2.0, inf]

    References:
        Deb et al. (2002), section III-B.
    """
    values = _checked(objectives)
    distance = np.zeros(len(values))
    for column in np.clip(values, -1e300, 1e300).T:
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        spread = column[order[-1]] - column[order[0]]
        if spread > 0 and len(order) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def select(objectives: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` candidates that NSGA-II keeps: lower fronts first, then the less crowded.

    Args:
        objectives: Shape (candidates, objectives), minimized.
        count: How many to keep; all of them if there are fewer.

    Returns:
        Indices, best first. Ties go to the earlier candidate, so the answer depends on nothing but the arguments.

    Raises:
        ValueError: If the array is not two-dimensional, holds NaN, or count is below 1.

    Example:
        >>> select(np.array([[3.0, 3.0], [1.0, 2.0], [2.0, 1.0]]), 2).tolist()
        [1, 2]
    """
    if count < 1:
        raise ValueError(f"count is at least 1, got {count}")
    ranks = nondominated_ranks(objectives)
    distance = np.zeros(len(ranks))
    for rank in range(int(ranks.max(initial=-1)) + 1):
        front = ranks == rank
        distance[front] = crowding_distance(np.asarray(objectives)[front])
    return np.lexsort((-distance, ranks))[:count]


def _checked(objectives: np.ndarray) -> np.ndarray:
    values = np.asarray(objectives, dtype=np.float64)
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError(f"objectives have shape (candidates, objectives) and no NaN, got shape {values.shape}")
    return values
