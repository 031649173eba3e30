# SPDX-License-Identifier: Apache-2.0
"""Weights that stay on a manifold under any optimizer."""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from steepest.geometry.manifold import Manifold


def keep_on_manifolds(
    optimizer: Optimizer, pairs: Iterable[tuple[Tensor, Manifold]], *, tangent: bool = False
) -> list[RemovableHandle]:
    r"""Put weights back on their manifolds after each step of an optimizer, whatever it is.

    A step that takes $w$ to $w + u$ becomes $w \leftarrow R_w(u)$, the nearest point of the manifold to $w + u$. With
    `tangent` the part of $u$ along the manifold alone is taken: $w \leftarrow R_w(P_w u)$, the Riemannian step. On a
    sphere the two differ by the length of $u$ along $w$: a factor of the step's size, not its direction.

    Args:
        optimizer: Any of torch's or of this library.
        pairs: Parameters, each with its manifold; those that the optimizer does not hold are left to others.
        tangent: Project each step on the tangent space first. Keeps a copy of the weights during a step.

    Returns:
        Handles; `remove()` each to stop.

    Example:
        >>> from steepest.geometry import RowSphere
        >>> layer = torch.nn.Linear(3, 2, bias=False)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> handles = keep_on_manifolds(optimizer, [(layer.weight, RowSphere())])
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> layer.weight.detach().norm(dim=1)
        tensor([1., 1.])

    References:
        Absil, Mahony and Sepulchre (2008), Optimization algorithms on matrix manifolds, section 4.1.
        Loshchilov et al. (2024), nGPT, arXiv 2410.01131, section 2.6 (without the tangent projection).
    """
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    mine = [(param, manifold) for param, manifold in pairs if id(param) in held]
    if not mine:
        return []
    keeper = _Keeper(mine)
    if not tangent:
        return [optimizer.register_step_post_hook(keeper.project)]
    return [
        optimizer.register_step_pre_hook(keeper.remember),
        optimizer.register_step_post_hook(keeper.retract),
    ]


@final
class _Keeper:
    """The hooks of one optimizer."""

    def __init__(self, pairs: list[tuple[Tensor, Manifold]]) -> None:
        self.pairs = pairs
        self.before: list[Tensor] = []

    @torch.no_grad()
    def project(self, *_: Any) -> None:
        for param, manifold in self.pairs:
            param.copy_(manifold.project(param))

    @torch.no_grad()
    def remember(self, *_: Any) -> None:
        self.before = [param.detach().clone() for param, _ in self.pairs]

    @torch.no_grad()
    def retract(self, *_: Any) -> None:
        for (param, manifold), old in zip(self.pairs, self.before, strict=True):
            param.copy_(manifold.retract(old, manifold.tangent(old, param - old)))
        self.before = []
