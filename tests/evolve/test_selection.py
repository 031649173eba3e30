import numpy as np
import pytest

from steepest.evolve import crowding_distance, nondominated_ranks, select


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def peel(points):
    """Return ranks as the definition says: take the nondominated away, again and again."""
    ranks, left, rank = {}, set(range(len(points))), 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        ranks |= dict.fromkeys(front, rank)
        left, rank = left - front, rank + 1
    return [ranks[i] for i in range(len(points))]


@pytest.mark.parametrize("objectives", [2, 3])
def test_ranks_are_those_of_the_definition(objectives):
    points = np.random.default_rng(objectives).integers(0, 6, (60, objectives)).astype(float)
    points[3] = np.inf
    assert nondominated_ranks(points).tolist() == peel(points.tolist())


def test_crowding_is_the_sum_of_scaled_gaps():
    x = np.array([0.0, 0.2, 0.7, 1.0])
    got = crowding_distance(np.column_stack([x, 4 * (1 - x)]))
    assert np.isinf(got[[0, 3]]).all()
    np.testing.assert_allclose(got[1:3], [2 * 0.7, 2 * 0.8])


def test_selection_fills_fronts_in_order_and_keeps_the_ends():
    rng = np.random.default_rng(0)
    points = rng.random((50, 2))
    ranks = np.array(peel(points.tolist()))
    kept = select(points, 20)
    worst = ranks[kept].max()
    assert set(np.flatnonzero(ranks < worst)) <= set(kept.tolist())
    last = points[ranks == worst]
    if (ranks[kept] == worst).sum() >= 2:
        ends = {int(np.flatnonzero((points == last[f]).all(axis=1))[0]) for f in last.argmin(axis=0)}
        assert ends <= set(kept.tolist())


def test_ties_go_to_the_earlier():
    assert select(np.ones((4, 2)), 2).tolist() == [0, 3]  # the ends of the front, in the order of the arguments
    assert nondominated_ranks(np.ones((4, 2))).tolist() == [0] * 4


@pytest.mark.parametrize("bad", [np.ones(3), np.array([[np.nan, 1.0]])])
def test_bad_objectives_are_refused(bad):
    with pytest.raises(ValueError, match="no NaN"):
        select(bad, 1)
    with pytest.raises(ValueError, match="at least 1"):
        select(np.ones((2, 2)), 0)
