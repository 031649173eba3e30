# SPDX-License-Identifier: Apache-2.0
"""Factors of the learning rate by the shape of a matrix: the conventions in use, each by name."""

import math
from typing import Literal, get_args

LrScale = Literal["none", "original", "match_rms", "spectral", "mup"]


def lr_scale_factor(mode: LrScale, rows: int, columns: int, *, base_width: int | None = None) -> float:
    r"""Return the factor of the learning rate for an $m \times n$ matrix, m outputs by n inputs.

    | mode | factor | meaning |
    |---|---|---|
    | `none` | 1 | the direction as the rule makes it |
    | `original` | $\sqrt{\max(1, m/n)}$ | Muon as published; tall matrices step like square ones |
    | `match_rms` | $0.2 \sqrt{\max(m, n)}$ | an orthogonal update gets the RMS 0.2 of AdamW's (Moonlight) |
    | `spectral` | $\sqrt{m/n}$ | RMS-to-RMS norm one: the spectral condition, the same learning rate at every width |
    | `mup` | $n_0/n$ | entrywise rules (Adam, sign): the learning rate tuned at width $n_0$ serves width n |

    Args:
        mode: One of the names.
        rows: m of one matrix (outputs), convolutions flattened to (out, in * taps).
        columns: n of one matrix (inputs).
        base_width: $n_0$, for `mup` alone.

    Raises:
        ValueError: For another name, or `mup` without a base width.

    Example:
        >>> lr_scale_factor("spectral", 400, 100)
        2.0

    References:
        Jordan et al. (2024), Muon. Liu et al. (2025), arXiv 2502.16982. Yang, Simon and Bernstein (2023),
        arXiv 2310.17813. Yang and Hu (2021), arXiv 2011.14522.
    """
    if mode == "none":
        return 1.0
    if mode == "original":
        return math.sqrt(max(1.0, rows / columns))
    if mode == "match_rms":
        return 0.2 * math.sqrt(max(rows, columns))
    if mode == "spectral":
        return math.sqrt(rows / columns)
    if mode == "mup":
        if not base_width:
            raise ValueError("lr_scale='mup' needs base_width, the input width at which the learning rate was tuned")
        return base_width / columns
    raise ValueError(f"lr_scale: expected one of {', '.join(get_args(LrScale))}, got {mode!r}")
