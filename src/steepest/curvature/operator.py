# SPDX-License-Identifier: Apache-2.0
"""A symmetric matrix that is known by its products with vectors."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


@final
@dataclasses.dataclass(frozen=True)
class Operator:
    """A symmetric linear map of vectors with `size` entries.

    Args:
        size: Number of rows and columns.
        product: Takes a vector of shape `(size,)` and returns a new one.
        dtype: Of the vectors.
        device: Where they are.

    Example:
        >>> curvatures = torch.tensor([1.0, 4.0])
        >>> matrix = Operator(2, lambda v: curvatures * v, torch.float32)
        >>> matrix @ torch.ones(2), (matrix + 0.5) @ torch.ones(2)
        (tensor([1., 4.]), tensor([1.5000, 4.5000]))
    """

    size: int
    product: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    def __matmul__(self, v: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """Return the product with a vector.

        Args:
            v: Of the operator's size; other dtypes are converted.

        Raises:
            ValueError: If the shape is another.
        """
        if v.shape != (self.size,):
            raise ValueError(f"expected a vector of shape ({self.size},), got {tuple(v.shape)}")
        return self.product(v.to(self.device, self.dtype))

    def __add__(self, shift: float) -> "Operator":
        """Return the operator plus a multiple of the identity: weight decay, or damping."""
        return dataclasses.replace(self, product=lambda v: self.product(v) + shift * v)

    def matrix(self) -> Float[Tensor, "size size"]:
        """Return all entries, by one product for each column: for small sizes and tests."""
        columns = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return torch.stack([self.product(column) for column in columns], dim=1)

    def to_scipy(self) -> "LinearOperator":
        """Return it as SciPy takes it, for the solvers and eigenvalue methods there."""
        import numpy as np
        from scipy.sparse.linalg import LinearOperator

        def product(v: np.ndarray) -> np.ndarray:
            return (self @ torch.from_numpy(np.array(v).reshape(-1))).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=dtype)  # pyright: ignore[reportCallIssue]
