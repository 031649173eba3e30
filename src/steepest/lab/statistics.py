# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests for a handful of paired runs."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

#: Resamples of an interval.
RESAMPLES = 10_000


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return a percentile bootstrap interval of the mean.

    Args:
        values: At least two finite numbers.
        level: Coverage aimed at, in (0, 1). With three or four values the interval is too narrow: it says how much the
            runs vary, and the test decides.
        seed: Of the resampling.

    Returns:
        Low and high end.

    Raises:
        ValueError: If there are fewer than two values or one is not finite.

    Example:
        >>> bootstrap_interval([1.0, 1.0, 1.0])
        (1.0, 1.0)

    References:
        Efron (1979), Bootstrap methods: another look at the jackknife.
    """
    x = _finite(values)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.quantile(x[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    r"""Return the two-sided p of Student's test on paired differences.

    With $d = $ `first` - `second` over $n$ pairs, $t = \bar d \sqrt n / s_d$ has $n - 1$ degrees of freedom. Runs of
    one seed share weights and data order, which the pairing uses. Rank tests need six pairs to reach 0.05.

    Args:
        first: Losses by seed.
        second: Of the same seeds, in the same order.

    Returns:
        A number in [0, 1]: 1 if all differences are 0, 0 if they are equal and not 0.

    Raises:
        ValueError: If the lengths differ, are below two, or a value is not finite.

    Example:
        >>> round(paired_p([1.0, 2.0, 4.0], [1.5, 2.1, 4.9]), 4)
        0.1633

    References:
        Student (1908), The probable error of a mean.
    """
    if len(first) != len(second):
        raise ValueError(f"expected as many values on both sides, got {len(first)} and {len(second)}")
    difference = _finite(first) - _finite(second)
    n, spread = len(difference), difference.std(ddof=1)
    if spread == 0:
        return 1.0 if difference[0] == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference.mean()) * np.sqrt(n) / spread, n - 1))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p corrected for their number: rejecting those at most alpha errs at all with probability at most alpha.

    The k-th smallest of m is multiplied by m - k + 1, then made monotone and cut at 1.

    Args:
        p: Name -> p in [0, 1].

    Returns:
        Name -> corrected p, in the order given.

    Raises:
        ValueError: If one is not in [0, 1].

    Example:
        >>> holm({"a": 0.01, "b": 0.04})
        {'a': 0.02, 'b': 0.04}

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    wrong = {name: value for name, value in p.items() if not 0 <= value <= 1}
    if wrong:
        raise ValueError(f"expected p in [0, 1], got {wrong}")
    corrected, highest = {}, 0.0
    for index, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - index) * p[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p}


def _finite(values: Sequence[float]) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"expected at least two finite numbers, got {list(values)}")
    return x
