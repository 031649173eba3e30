# SPDX-License-Identifier: Apache-2.0
"""Element-wise optimizer updates of whole parameter groups, in place, in one sweep over memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.kernels._updates_hyper import AdamHyper, Decay, MomentumHyper
from steepest.kernels._updates_noise import Noise
from steepest.kernels._updates_plain import adam_plain_, momentum_plain_
from steepest.kernels._updates_states import Quantized, State, decode_state, encode_state_, state_zeros

__all__ = [
    "AdamHyper",
    "Decay",
    "MomentumHyper",
    "Noise",
    "Quantized",
    "State",
    "adam_step_",
    "decode_state",
    "encode_state_",
    "momentum_step_",
    "state_zeros",
]


@torch.no_grad()
def adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[State],
    exp_avg_sqs: Sequence[State],
    max_exp_avg_sqs: Sequence[State] | None,
    hyper: AdamHyper,
    lr_scales: Sequence[float] | None = None,
) -> None:
    r"""Take one step of Adam, AdamW, NAdam or AMSGrad with every parameter of a list.

    With $g$ the gradient times `grad_scale` (plus $\lambda p$ for `"l2"` decay):
    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$,
    $u = \hat m / (\sqrt{\hat v} + \epsilon)$ with $\hat m = m / (1 - \beta_1^t)$, $\hat v = v / (1 - \beta_2^t)$, and
    $p \leftarrow p - \eta u - $ decay. AMSGrad takes the largest $v$ so far in place of $v$. NAdam, with
    $\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)$ and $\Pi_t$ their product, takes
    $\mu_{t+1} m / (1 - \Pi_{t+1}) + (1 - \mu_t) g / (1 - \Pi_t)$ in place of $\hat m$.

    Args:
        params: Any shapes; float32, bfloat16, float16 or float64; changed in place.
        grads: Of the same shapes and dtypes; not changed.
        exp_avgs: $m$ of each: float32, bfloat16, float64, float16 or `Quantized` (see `state_zeros`); changed in place.
        exp_avg_sqs: $v$ of each; changed in place.
        max_exp_avg_sqs: Largest $v$ of each, for AMSGrad; None without.
        hyper: The numbers of this step; one step count for all.
        lr_scales: Factor of the learning rate for each parameter; the decay takes the learning rate without it.

    Raises:
        ValueError: If the lists differ in length, shapes differ, or a number is out of range.

    Numerics:
        float64 parameters are computed in float64, others in float32 and rounded once. Decay is p - d p with one
        rounding more than the step. Random bits depend on seed, offset, position in the list and element only. NaN and
        infinity pass through to the parameter.

    Example:
        >>> import torch
        >>> from steepest.kernels.updates import AdamHyper, adam_step_, state_zeros
        >>> p, g = torch.zeros(4), torch.ones(4)
        >>> m, v = (state_zeros(p, torch.float32) for _ in range(2))
        >>> adam_step_([p], [g], [m], [v], None, AdamHyper(lr=0.1, step=1))
        >>> p
        tensor([-0.1000, -0.1000, -0.1000, -0.1000])

    References:
        Kingma and Ba (2015), arXiv:1412.6980. Loshchilov and Hutter (2019), arXiv:1711.05101. Reddi et al. (2018),
        arXiv:1904.09237. Dozat (2016), Incorporating Nesterov momentum into Adam. Liang et al. (2024), Cautious
        optimizers, arXiv:2411.16085. Deviation: the cautious factor is entries / kept of the tensor.
    """
    _check(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, lr_scales)
    _check_shapes(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
    adam_plain_(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, hyper, lr_scales)


@torch.no_grad()
def momentum_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[State] | None,
    hyper: MomentumHyper,
    lr_scales: Sequence[float] | None = None,
) -> None:
    r"""Take one step of SGD, heavy ball, Nesterov, sign descent, signum or Lion with every parameter of a list.

    The rules stand in `MomentumHyper`. The buffers of a first step are zeros.

    Args:
        params: Any shapes; float32, bfloat16, float16 or float64; changed in place.
        grads: Of the same shapes and dtypes; not changed.
        buffers: One for each parameter (see `state_zeros`); changed in place. None for a rule without momentum.
        hyper: The numbers of this step.
        lr_scales: Factor of the learning rate for each parameter; the decay takes the learning rate without it.

    Raises:
        ValueError: If the lists differ in length, shapes differ, or the rule is unknown or lacks its buffers.

    Numerics:
        As `adam_step_`. The sign of 0 is 0.

    Example:
        >>> import torch
        >>> from steepest.kernels.updates import MomentumHyper, momentum_step_
        >>> p, g, b = torch.ones(3), torch.ones(3), torch.zeros(3)
        >>> momentum_step_([p], [g], [b], MomentumHyper(lr=0.5, momentum=0.9, nesterov=True))
        >>> p
        tensor([0.0500, 0.0500, 0.0500])

    References:
        Polyak (1964). Sutskever et al. (2013). Bernstein et al. (2018), signSGD, arXiv:1802.04434. Chen et al. (2023),
        Lion, arXiv:2302.06675.
    """
    _check(params, grads, buffers, lr_scales)
    _check_shapes(params, grads, buffers)
    momentum_plain_(params, grads, buffers, hyper, lr_scales)


def _check(params: Sequence[Tensor], *others: Sequence[Any] | None) -> None:
    for other in others:
        if other is not None and len(other) != len(params):
            raise ValueError(f"lists of one length are expected, got {len(params)} parameters and {len(other)} beside")


def _check_shapes(params: Sequence[Tensor], *others: Sequence[State] | None) -> None:
    for other in others:
        for p, o in zip(params, other or (), strict=False):
            shape = o.codes.shape if isinstance(o, Quantized) else o.shape
            if shape != p.shape:
                raise ValueError(f"a gradient or state of shape {tuple(p.shape)} is expected, got {tuple(shape)}")
