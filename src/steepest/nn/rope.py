# SPDX-License-Identifier: Apache-2.0
"""The angles of rotary position embedding."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(
    start: int, time: int, head_size: int, theta: float, device: torch.device
) -> Float[Tensor, "2 time half"]:
    r"""Return cosines and sines of the angles $p\,\theta^{-2i/d}$ for positions $p$ = `start` ... `start + time - 1`.

    Args:
        start: First position.
        time: Number of positions.
        head_size: Size $d$ of a head; even.
        theta: Base of the wavelengths.
        device: Where the table is needed.

    Returns:
        Float32, shape (2, `time`, `head_size` / 2). The angles are computed in float64, so far positions stay exact.

    References:
        Su et al. (2021), RoFormer, arXiv 2104.09864, equation 15.
    """
    return _table(start, time, head_size, theta, str(device))


@lru_cache(maxsize=64)
def _table(start: int, time: int, head_size: int, theta: float, device: str) -> Tensor:
    # Tensors made while torch.inference_mode() is on could not be used for training afterwards.
    with torch.inference_mode(False):
        frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        angles = torch.outer(torch.arange(start, start + time, dtype=torch.float64), frequencies)
        return torch.stack((angles.cos(), angles.sin())).to(device=device, dtype=torch.float32)
