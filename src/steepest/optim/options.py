# SPDX-License-Identifier: Apache-2.0
"""What every optimizer of the library can do around its rule, chosen by name."""

import dataclasses
import math
from typing import Literal, final, get_args

from steepest.kernels.updates import Decay
from steepest.optim.rule import check
from steepest.optim.scale import LrScale

NonFinite = Literal["propagate", "skip", "raise"]
StateDtype = Literal["float32", "bfloat16", "8bit"]


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    r"""Settings of the engine; they may differ by parameter group.

    Args:
        decay: How weight decay $\lambda$ acts; None takes the method's own way.

            - `"decoupled"`: $W \leftarrow (1 - \eta \lambda) W$ before the step (AdamW);
            - `"l2"`: $\lambda W$ is added to the gradient;
            - `"independent"`: $W \leftarrow (1 - \lambda\, \eta / \eta_0) W$, with $\eta_0$ the learning rate that the
              optimizer was made with: a schedule acts, the size of the learning rate does not;
            - `"cautious"`: decoupled, on those entries that the step moves towards zero.
        lr_scale: Factor of the learning rate by shape, see `lr_scale_factor`; None takes the rule's own.
        base_width: Input width at which the learning rate was tuned, for `lr_scale="mup"`.
        lr_factor: Further factor of the learning rate, above 0, vectors included; a group's place for what width
            scaling gives it. Weight decay goes by the learning rate without the factors.
        clip: Largest dual norm of a gradient under the rule's norm (largest l2 length where it has none); a larger
            gradient is scaled down to it, each parameter (each matrix, where the rule works on matrices) by itself.
            Infinity never clips.
        cautious: Drop the entries of a step whose sign disagrees with the gradient, and scale the others up.
        hyperball: Keep the length (Frobenius norm) $R$ that a matrix had at its first step:
            $W \leftarrow R\, (W - \eta R u / \|u\|_F) / \|\cdot\|_F$. The factor by shape and weight decay do not act
            in such a group; vectors in it are stepped freely. Where the rule works on matrices, each block of a
            parameter keeps its own length; else the parameter as a whole does.
        nonfinite: A gradient with NaN or infinity is used as it is, makes the whole step be left out (counted in
            `Engine.skipped`), or raises and names the parameter. The last two read all gradients once more.
        state_dtype: How averages with one number per entry are kept: float32, bfloat16 with stochastic rounding, or
            8 bits in blocks. float64 parameters keep float64 states.
        seed: Of every random number that rules and roundings draw.
        compile: Compile the rules' arithmetic (`update` and `direct`) with `torch.compile`, in place of fused kernels.
            The first step waits for the compiler. On a CPU a C++ compiler is needed.

    Raises:
        ValueError: If a value is out of its range.
        RuntimeError: By the optimizer, if `compile` is set and torch finds no C++ compiler.

    References:
        Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv 1711.05101 (decoupled decay). Liang
        et al. (2024), arXiv 2411.16085 (cautious).
    """

    decay: Decay | None = None
    lr_scale: LrScale | None = None
    base_width: int | None = None
    lr_factor: float = 1.0
    clip: float = math.inf
    cautious: bool = False
    hyperball: bool = False
    nonfinite: NonFinite = "propagate"
    state_dtype: StateDtype = "float32"
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        for name, kinds in (("nonfinite", NonFinite), ("state_dtype", StateDtype)):
            one_of(name, getattr(self, name), get_args(kinds))
        for name, kinds in (("decay", Decay), ("lr_scale", LrScale)):
            if getattr(self, name) is not None:
                one_of(name, getattr(self, name), get_args(kinds))
        if self.lr_scale == "mup" and not self.base_width:
            raise ValueError("lr_scale='mup' needs base_width, the input width at which the learning rate was tuned")
        check("lr_factor", self.lr_factor, 0, math.inf, closed="()")
        check("clip", self.clip, 0, math.inf, closed="(]")
        check("seed", self.seed, 0, 2**63)


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is none of those allowed.

    Args:
        name: Of the setting.
        value: What was given.
        allowed: What there is.

    Raises:
        ValueError: With the list.
    """
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")
