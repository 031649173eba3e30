# SPDX-License-Identifier: Apache-2.0
"""The numbers of an update, and what they become before the sweep over memory."""

import functools
import math
from typing import Literal, NamedTuple

from steepest.kernels._updates_noise import Noise

Decay = Literal["decoupled", "l2", "independent", "cautious"]
DECAYS: tuple[Decay, ...] = ("decoupled", "l2", "independent", "cautious")


class AdamHyper(NamedTuple):
    r"""The numbers of one Adam step.

    Attributes:
        lr: Learning rate $\eta$.
        beta1: $\beta_1$ in [0, 1).
        beta2: $\beta_2$ in [0, 1).
        eps: $\epsilon$, added to the root after bias correction.
        step: Number of this step, from 1: $t$ of the bias corrections.
        weight_decay: $\lambda$.
        decay: How it acts. `"decoupled"`: $p \leftarrow p - \eta \lambda p$. `"l2"`: $g \leftarrow g + \lambda p$.
            `"independent"`: $p \leftarrow p - \lambda p$, whatever the learning rate. `"cautious"`: as decoupled, where
            the step $u$ has the sign of $p$ ($u p \ge 0$), elsewhere none.
        nadam: Nesterov's look-ahead with the momentum schedule of NAdam.
        momentum_decay: $\psi$ of that schedule.
        cautious: Keep the entries of the step whose sign is the gradient's, scaled by entries / kept for each tensor.
        grad_scale: Multiplies the gradients as they are read: clipping, or the inverse of a loss scale.
        noise: Seed and offset of the random bits for bfloat16 and eight-bit states; None rounds to nearest.
        round_params: Round bfloat16 and float16 parameters at random too, with bits of their own.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    step: int = 1
    weight_decay: float = 0.0
    decay: Decay = "decoupled"
    nadam: bool = False
    momentum_decay: float = 4e-3
    cautious: bool = False
    grad_scale: float = 1.0
    noise: Noise | None = None
    round_params: bool = False


class MomentumHyper(NamedTuple):
    r"""The numbers of one step with one buffer $b$, or none.

    Attributes:
        lr: Learning rate $\eta$.
        momentum: $\mu$ in [0, 1). Lion: $\beta_2$ of the buffer.
        rule: `"sgd"`: $b \leftarrow \mu b + (1 - \tau) g$ and the step is $b$, or $g + \mu b$ with `nesterov`.
            `"ema"`: $b \leftarrow \mu b + (1 - \mu) g$ and the step is $b$, or $\mu b + (1 - \mu) g$ with `nesterov`.
            `"lion"`: the step is the sign of $\beta_1 b + (1 - \beta_1) g$ with the old $b$, then
            $b \leftarrow \mu b + (1 - \mu) g$.
        nesterov: Look one step ahead.
        dampening: $\tau$ of `"sgd"`; the first step takes the whole gradient.
        sign: Step along the sign: with `"ema"` signum, with no buffer sign descent. Lion always does.
        beta1: Lion's interpolation.
        step: Number of this step, from 1.
        weight_decay: $\lambda$.
        decay: As in `AdamHyper`.
        cautious: As in `AdamHyper`.
        grad_scale: As in `AdamHyper`.
        noise: As in `AdamHyper`.
        round_params: As in `AdamHyper`.
    """

    lr: float
    momentum: float = 0.0
    rule: Literal["sgd", "ema", "lion"] = "sgd"
    nesterov: bool = False
    dampening: float = 0.0
    sign: bool = False
    beta1: float = 0.9
    step: int = 1
    weight_decay: float = 0.0
    decay: Decay = "decoupled"
    cautious: bool = False
    grad_scale: float = 1.0
    noise: Noise | None = None
    round_params: bool = False


class DecayTerms(NamedTuple):
    """What a decay becomes: `l2` times p is added to g, `shrink` times p is taken from p, at some entries if masked."""

    l2: float
    shrink: float
    masked: bool


class AdamTerms(NamedTuple):
    r"""The step is $(a m + b g) / (c \sqrt v + \epsilon)$."""

    a: float
    b: float
    c: float


class MomentumTerms(NamedTuple):
    r"""The buffer becomes $k b + h g$, the step is $x b_{old} + y b_{new} + z g$, or its sign."""

    k: float
    h: float
    x: float
    y: float
    z: float
    sign: bool


def decay_terms(hyper: AdamHyper | MomentumHyper) -> DecayTerms:
    """Return how the decay of a step acts.

    Args:
        hyper: Its numbers.

    Raises:
        ValueError: If the name of the decay is unknown.
    """
    weight_decay = hyper.weight_decay
    if hyper.decay not in DECAYS:
        raise ValueError(f"decay is expected to be one of {', '.join(DECAYS)}; got {hyper.decay!r}")
    if hyper.decay == "l2":
        return DecayTerms(weight_decay, 0.0, False)
    if hyper.decay == "independent":
        return DecayTerms(0.0, weight_decay, False)
    return DecayTerms(0.0, hyper.lr * weight_decay, hyper.decay == "cautious" and weight_decay != 0)


def adam_terms(hyper: AdamHyper) -> AdamTerms:
    """Return the factors of Adam's step, bias corrections and NAdam's schedule included.

    Args:
        hyper: Its numbers.

    Raises:
        ValueError: If the step is below 1.
    """
    if hyper.step < 1:
        raise ValueError(f"step is expected to count from 1, got {hyper.step}")
    c = 1 / math.sqrt(1 - hyper.beta2**hyper.step)
    if not hyper.nadam:
        return AdamTerms(1 / (1 - hyper.beta1**hyper.step), 0.0, c)
    now, after = (_nadam_momentum(hyper, hyper.step + i) for i in (0, 1))
    product = _nadam_product(hyper.beta1, hyper.momentum_decay, hyper.step)
    return AdamTerms(after / (1 - product * after), (1 - now) / (1 - product), c)


def _nadam_momentum(hyper: AdamHyper, step: int) -> float:
    return hyper.beta1 * (1 - 0.5 * 0.96 ** (step * hyper.momentum_decay))


@functools.lru_cache(maxsize=64)
def _nadam_product(beta1: float, momentum_decay: float, step: int) -> float:
    product = 1.0
    for i in range(1, step + 1):
        product *= beta1 * (1 - 0.5 * 0.96 ** (i * momentum_decay))
        if product < 2.0**-60:  # 1 - product is 1
            return 0.0
    return product


def momentum_terms(hyper: MomentumHyper, has_buffer: bool) -> MomentumTerms:
    """Return the factors of a momentum step.

    Args:
        hyper: Its numbers.
        has_buffer: Whether there is a buffer.

    Raises:
        ValueError: If the rule is unknown, or needs a buffer and has none.
    """
    mu = hyper.momentum
    if hyper.rule not in ("sgd", "ema", "lion"):
        raise ValueError(f"rule is expected to be sgd, ema or lion; got {hyper.rule!r}")
    if not has_buffer:
        if hyper.rule == "lion" or mu:
            raise ValueError(f"rule {hyper.rule!r} with momentum {mu} needs buffers, got None")
        return MomentumTerms(0, 0, 0, 0, 1, hyper.sign)
    if hyper.rule == "lion":
        return MomentumTerms(mu, 1 - mu, hyper.beta1, 0, 1 - hyper.beta1, True)
    if hyper.rule == "ema":
        x, y, z = (0, mu, 1 - mu) if hyper.nesterov else (0, 1, 0)
        return MomentumTerms(mu, 1 - mu, x, y, z, hyper.sign)
    h = 1 - hyper.dampening if hyper.step > 1 else 1.0
    x, y, z = (0, mu, 1) if hyper.nesterov else (0, 1, 0)
    return MomentumTerms(mu, h, x, y, z, hyper.sign)
