# SPDX-License-Identifier: Apache-2.0
"""Scaling of rows and columns to RMS one, in turn: each pass reads the matrix once, only the result is written."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest.kernels._op import KERNEL, route
from steepest.kernels._pool import WORTH_A_THREAD_NS, spread
from steepest.kernels._rows import as_rows
from steepest.kernels._sinkhorn import APPLY, COLUMNS, SWEEP, sinkhorn_columns

#: Matrices of a batch are taken together up to this many bytes, which stay in the cache from pass to pass.
_TOGETHER = 1 << 20
#: Rows whose share of the column sums is added up in float32.
_MOST_ROWS, _FEWEST_ROWS, _FEWEST_BLOCKS = 32, 4, 8
_NANOSECONDS = 0.5
#: Of a pass, what counts when it is decided on threads: each pass waits for the last one, and half of what it reads was
#: written by another core.
_SHARE = 1 / 3


def has_kernel(x: Tensor, target: Tensor) -> bool:
    """Say whether `scale_rows_and_columns_` can take these tensors.

    Args:
        x: What is read.
        target: What is written.

    Returns:
        True for CPU float32, bfloat16 and float16 tensors of one dtype, seen by no transform, if each row of the
        target is dense and the rows lie at equal distances.
    """
    return x.dtype == target.dtype and route(x, target) is KERNEL and as_rows(target.detach())[0].is_set_to(target)


def scale_rows_and_columns_(target: Tensor, x: Tensor, *, steps: int, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    r"""Write beta target + alpha S(x), where S scales rows, then columns, to RMS one, `steps` times.

    Args:
        target: `(*batch, m, n)`, changed in place; may be `x`. Not read when beta is 0.
        x: Shape and dtype of the target; see `has_kernel`.
        steps: Passes, 1 or more.
        alpha: Factor of the scaled matrix.
        beta: Factor of the target's old value.

    Returns:
        `target`.

    Numerics:
        Arithmetic is float32, row sums and column sums float64 beyond 4096 and 32 terms. The partition does not depend
        on the number of threads: the same bits for any.

    References:
        Sinkhorn and Knopp (1967); Scetbon et al. (2025), arXiv 2502.06742.
    """
    m, n = x.shape[-2:]
    matrices = x.detach().reshape(-1, m, n)
    outputs = target.detach().view(-1, m, n)
    together = max(1, _TOGETHER // (m * n * x.element_size()))
    groups = [(matrices, outputs)]
    if len(matrices) > together:  # a split takes as long as a small matrix
        groups = list(zip(matrices.split(together), outputs.split(together), strict=True))
    passes, entries = Passes(steps, alpha, beta), together * m * n
    if entries * _NANOSECONDS * _SHARE < WORTH_A_THREAD_NS:  # one is too small for several threads
        spread(_some, len(groups), (steps + 1) * _NANOSECONDS * entries, groups, passes)
    else:
        for x_some, y_some in groups:
            _scale(x_some, y_some, passes, spread)
    torch.autograd.graph.increment_version(target)
    return target


class Passes(NamedTuple):
    """What is asked for: see `scale_rows_and_columns_`."""

    steps: int
    alpha: float
    beta: float


def _some(groups: list[tuple[Tensor, Tensor]], passes: Passes, start: int, stop: int) -> None:
    for x, y in groups[start:stop]:
        _scale(x, y, passes, _alone)


def _alone(run: Callable[..., Any], total: int, nanoseconds: float, *args: Any) -> None:
    """Take the place of `spread` within one thread."""
    del nanoseconds
    run(*args, 0, total)


def _scale(x: Tensor, y: Tensor, passes: Passes, share: Callable[..., None]) -> None:
    batch, m, n = x.shape
    x, distance = as_rows(x)
    y, y_distance = as_rows(y)
    size = min(_MOST_ROWS, max(_FEWEST_ROWS, -(-m // _FEWEST_BLOCKS)))
    blocks = -(-m // size)
    # In one piece: units and scales of rows, factors of columns, which begin at one, and the blocks' shares of those.
    lengths = (batch * m, batch * m, batch * n, batch * blocks * n)
    memory = torch.ones(sum(lengths), dtype=torch.float32, device="cpu")
    units, scales, columns, partial, _ = accumulate((4 * count for count in lengths), initial=memory.data_ptr())
    sweep, apply, add_up = SWEEP[x.dtype].run, APPLY[x.dtype].run, sinkhorn_columns.run
    buffers, source, last = batch * -(-n // COLUMNS), x.data_ptr(), passes.steps - 1
    addresses = (source, units, scales, columns, partial, distance, m, n, size)
    sweep_cost, add_cost = _SHARE * _NANOSECONDS * size * n, _SHARE * _NANOSECONDS * COLUMNS * blocks
    for step in range(passes.steps):
        share(sweep, batch * blocks, sweep_cost, *addresses, int(step == 0))
        share(add_up, buffers, add_cost, partial, columns, blocks, m, n, int(step == last))
    layout = (distance, y_distance, m, n)
    share(apply, batch * m, _NANOSECONDS * n, source, y.data_ptr(), scales, columns, *layout, passes.alpha, passes.beta)
