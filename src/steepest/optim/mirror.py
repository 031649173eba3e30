# SPDX-License-Identifier: Apache-2.0
"""Optimistic mirror descent: online learning in a set, under the geometry of a mirror map, with gradients foretold."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from torch import Tensor

from steepest.geometry.domain import Domain
from steepest.geometry.mirror import Euclidean, MirrorMap
from steepest.kernels.updates import Decay
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check
from steepest.optim.sharding import is_sharded

_OPTIONS = (
    "a mirror map and a domain place the parameter themselves: leave cautious, hyperball, compile and the observation "
    "of steps off, and let weight decay be 'l2' (or 0)"
)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimisticMirrorRule(Rule):
    r"""The steps of `OptimisticMirrorDescent`.

    Without a domain and in Euclidean space they are directions like those of any rule,
    $u_t = a_t (g_t - g_{t-1}) + a_{t+1} g_t$ with the factor $a_t = \eta_t / \eta$ of the learning rate. Otherwise the
    parameter is placed where the mirror map says, and cannot leave the domain.

    Args:
        mirror: The mirror map.
        domain: The set; None for all on which the map is defined.
        optimistic: Foretell the next gradient by the last.
        offset: $c$ above 0 of the adaptive rate; None for a rate that only its schedule changes.

    References:
        See `OptimisticMirrorDescent`.
    """

    lr: ClassVar[float] = 0.1
    needs: ClassVar[str] = "a mirror map and a set, or neither"

    mirror: MirrorMap = dataclasses.field(default_factory=Euclidean)
    domain: Domain | None = None
    optimistic: bool = True
    offset: float | None = None

    def __post_init__(self) -> None:
        if self.offset is not None:
            check("offset", self.offset, 0, math.inf, closed="()")
        if not self.places:
            more = () if self.offset is None else ("variation",)
            object.__setattr__(self, "entry_states", ("last_gradient", *more))

    @property
    def places(self) -> bool:
        """Whether the parameter is placed; else it is moved along a direction."""
        return not (isinstance(self.mirror, Euclidean) and self.domain is None)

    @property
    def element_dims(self) -> int:
        """Trailing dimensions of what learns by itself."""
        return self.domain.element_dims if self.domain is not None else 1

    def init(self, like: Tensor) -> State:
        """Return what is remembered: dual coordinates, the last gradient, the sum of squared changes.

        Raises:
            ValueError: If a parameter that is to be placed lies outside the domain, or is sharded.
        """
        if is_sharded(like) and (self.places or self.offset is not None):
            raise ValueError(
                "a domain, a mirror map and an adaptive rate need whole vectors; do not shard this parameter"
            )
        state: State = {}
        if self.places:
            x = _vectors(like, self.element_dims)
            if not self.mirror.admits(x) or (self.domain is not None and not self.domain.contains(x)):
                raise ValueError(
                    f"a parameter of shape {tuple(like.shape)} starts outside {self.domain or self.mirror}; give it a "
                    "point inside first, such as domain.project(p) (for Entropy, one with all entries above 0)"
                )
            state["dual_point"] = self.mirror.project(self.mirror.dual(x), self.domain).reshape(like.shape).clone()
        if self.offset is not None:
            state["variation"] = self._size(like).double().zero_()
        if self.offset is not None or not self.places:
            state["last_gradient"] = torch.zeros_like(like)
        return state

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return the direction, where the parameter is not placed."""
        if self.places:
            raise ValueError(_OPTIONS)
        now, after = self._factors(grad, state)
        last = state["last_gradient"]
        direction = (grad - last) * now + grad * after if self.optimistic else grad * now
        last.copy_(grad)
        return direction

    def step_(self, entries: Entries, settings: Settings) -> bool:
        """Place the parameters."""
        if not self.places:
            return False
        if settings.cautious or (settings.weight_decay and settings.decay != "l2"):
            raise ValueError(_OPTIONS)
        if settings.lr == 0:  # as everywhere: nothing moves
            return True
        for index, (param, grad, state) in enumerate(zip(entries.params, entries.grads, entries.states, strict=True)):
            scale = 1.0 if entries.lr_scales is None else entries.lr_scales[index]
            grad = grad.to(state["dual_point"].dtype)
            if settings.weight_decay:
                grad = grad.add(param.to(grad.dtype), alpha=settings.weight_decay)
            self._place(param, grad, state, settings.lr * scale)
        return True

    def _place(self, param: Tensor, grad: Tensor, state: State, lr: float) -> None:
        now, after = (factor * lr for factor in self._factors(grad, state))
        if "last_gradient" in state:
            state["last_gradient"].copy_(grad)
        g, kept = _vectors(grad, self.element_dims), _vectors(state["dual_point"], self.element_dims)
        theta = self.mirror.project(kept - now * g, self.domain)
        state["dual_point"].copy_(theta.reshape(param.shape))
        if self.optimistic:
            theta = self.mirror.project(theta - after * g, self.domain)
        param.copy_(self.mirror.primal(theta).reshape(param.shape))

    def _factors(self, grad: Tensor, state: State) -> tuple[Tensor | float, Tensor | float]:
        """The factors of the rate for this gradient and for the next, and the change of the gradient added."""
        if self.offset is None:
            return 1.0, 1.0
        before = (state["variation"] + self.offset).rsqrt()
        state["variation"].add_(self._size(grad - state["last_gradient"]).double().square())
        after = (state["variation"] + self.offset).rsqrt()
        return before.to(grad.dtype), after.to(grad.dtype)

    def _size(self, grad: Tensor) -> Tensor:
        """The norm of each learner's gradient, to be broadcast with it."""
        if not self.places:
            return torch.linalg.vector_norm(grad)
        g, dims = _vectors(grad, self.element_dims), self.element_dims
        if dims > 1:  # a set of matrices, in Euclidean space
            return torch.linalg.vector_norm(g, dim=tuple(range(-dims, 0)), keepdim=True)
        return self.mirror.gradient_norm(g)[..., None]


def _vectors(x: Tensor, dims: int) -> Tensor:
    """A number as a vector of one entry; other shapes as they are.

    Raises:
        ValueError: If there are too few dimensions.
    """
    if x.ndim == 0 and dims == 1:
        return x[None]
    if x.ndim < dims:
        raise ValueError(f"the domain is one of {dims} dimensions, and a parameter has shape {tuple(x.shape)}")
    return x


@final
class OptimisticMirrorDescent(Engine):
    r"""Optimistic mirror descent: any mirror map, any set it can project onto, and the next gradient foretold.

    The parameter is $x_t$, the point that is played. With the gradient $g_t$ there, the prediction
    $M_{t+1} = g_t$ and the divergence $B$ of the mirror map,

    $$ \hat x_{t+1} = \arg\min_{x \in X} \langle \eta_t g_t, x \rangle + B(x, \hat x_t), \qquad
       x_{t+1} = \arg\min_{x \in X} \langle \eta_{t+1} M_{t+1}, x \rangle + B(x, \hat x_{t+1}). $$

    Where losses change slowly the regret depends on how much they change, not on how many there are. The adaptive
    rate needs no number of rounds: $\eta_t = \eta / \sqrt{c + \sum_{s<t} \|g_s - g_{s-1}\|_*^2}$, $g_0 = 0$, with
    $\eta$ the diameter of the set and $c$ at least four times the square of the largest gradient.

    Every vector along the last dimension learns by itself (a matrix, where the set is one of matrices; the whole
    parameter without mirror map and set).

    Args:
        params: A model, parameters, named parameters or groups; inside the set.
        lr: $\eta$ above 0.
        mirror: `Euclidean()`, `Entropy()`, `PNorm(p)` or your own `MirrorMap`; None is Euclidean.
        domain: `Ball()`, `Box()`, `Simplex()` or your own `Domain`; None is wherever the map is defined.
        optimistic: Off, it is mirror descent.
        offset: $c$ above 0 makes the rate adaptive; None leaves it to `lr` and its schedule.
        weight_decay: Added to the gradient.
        options: What the engine does around the rule. With a mirror map or a domain `cautious`, `hyperball` and
            `compile` are refused at the first step.

    Raises:
        ValueError: If a number is out of range; at the first step, if a parameter starts outside the set.

    Numerics:
        The sum of squared changes is float64. With a mirror map or set, dual coordinates of $\hat x$ are kept in the
        dtype of the arithmetic whatever `state_dtype` says, and a learning rate of 0 leaves everything as it is. A
        schedule changes $\eta$ for the gradient and its prediction alike. Sharded parameters are refused there and
        with the adaptive rate.

    Example:
        Two players of a zero-sum game on simplices find its equilibrium, (0.4, 0.6) for the first.

        >>> import torch
        >>> from steepest.geometry import Entropy, Simplex
        >>> game = torch.tensor([[2.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        >>> x, y = (torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for p in ([0.9, 0.1], [0.2, 0.8]))
        >>> optimizer = OptimisticMirrorDescent([x, y], lr=0.2, mirror=Entropy(), domain=Simplex())
        >>> for _ in range(500):
        ...     x.grad, y.grad = game @ y.detach(), -game.T @ x.detach()
        ...     optimizer.step()
        >>> x.data
        tensor([0.4000, 0.6000], dtype=torch.float64)

    References:
        Rakhlin and Sridharan (2013), Online learning with predictable sequences, arXiv 1208.3728. Chiang et al. (2012),
        Online optimization with gradual variations. Chen et al. (2023), Optimistic online mirror descent for bridging
        stochastic and adversarial online convex optimization, arXiv 2302.04552.
    """

    default_decay: ClassVar[Decay] = "l2"

    def __init__(
        self,
        params: Params,
        lr: float = OptimisticMirrorRule.lr,
        *,
        mirror: MirrorMap | None = None,
        domain: Domain | None = None,
        optimistic: bool = True,
        offset: float | None = None,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        rule = OptimisticMirrorRule(mirror=mirror or Euclidean(), domain=domain, optimistic=optimistic, offset=offset)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
