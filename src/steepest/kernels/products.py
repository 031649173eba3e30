# SPDX-License-Identifier: Apache-2.0
"""In which dtype to make the matrix products of 16-bit operands: float32 where the processor has none of its own.

There torch multiplies bfloat16 matrices in loops of scalars: 2 to 11 GFLOP/s on a processor that makes 80 in float32,
conversion of the operands included. The products of 16-bit numbers are exact in float32, so nothing is lost either.
"""

import torch

#: Whether torch hands products in a dtype to instructions of this processor.
HAS_OWN: dict[torch.dtype, bool] = {
    torch.bfloat16: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which products of matrices are made fastest.

    Args:
        dtype: Of the operands.
        device: Where they are.

    Returns:
        float32 for 16-bit operands on a CPU without instructions for them, else `dtype`.

    Example:
        >>> compute_dtype(torch.float64, torch.device("cpu"))
        torch.float64
    """
    return torch.float32 if device.type == "cpu" and not HAS_OWN.get(dtype, True) else dtype
