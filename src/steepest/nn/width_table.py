# SPDX-License-Identifier: Apache-2.0
"""One table of the parametrizations by width: multiplier, initial size and learning rate as powers of the width."""

import dataclasses
import math
from typing import Literal, final, get_args

Parametrization = Literal["sp", "ntk", "mean_field", "mup", "spectral"]
Kind = Literal["input", "hidden", "output", "fixed"]
Update = Literal["gradient", "entrywise", "spectral"]
Regime = Literal["feature learning", "kernel", "unstable"]


@final
@dataclasses.dataclass(frozen=True)
class ABC:
    r"""How a weight goes with the width n: $W = n^{-a} w$, $w \sim \mathcal N(0, n^{-2b})$, learning rate $n^{-c}$.

    Args:
        a: Exponent of the multiplier.
        b: Exponent of the initial size.
        c: Exponent of the learning rate of w.

    Example:
        >>> ABC(0.5, 0.5, 0.0).shifted(-0.5, update="gradient")
        ABC(a=0.0, b=1.0, c=1.0)
    """

    a: float
    b: float
    c: float

    def shifted(self, theta: float, *, update: Update) -> "ABC":
        r"""Return the parametrization with $\theta$ added to a that trains to the same function.

        The gradient of w has the multiplier as a factor, and so has what a change of w does to W: learning rates go by
        $n^{2\theta}$ where the step is the gradient, by $n^{\theta}$ where its size does not depend on the gradient's.

        Args:
            theta: Added to `a`.
            update: What a step is, see `abc`.

        References:
            Yang and Hu (2021), Tensor Programs IV: feature learning in infinite-width neural networks, arXiv
            2011.14522, section 3.2; Yang and Littwin (2023), Tensor Programs IVb: adaptive optimization in the
            infinite-width limit, arXiv 2308.01814.
        """
        times = 2 if update == "gradient" else 1
        return ABC(self.a + theta, self.b - theta, self.c - times * theta)

    def without_multiplier(self, *, update: Update) -> "ABC":
        """Return the equivalent with `a` zero: initial size and learning rate say it all.

        Args:
            update: What a step is, see `abc`.
        """
        return self.shifted(-self.a, update=update)


#: By parametrization and kind: a, b, then c for gradient, entrywise and spectral steps (inf: none is known).
_H = 0.5
_TABLE: dict[str, dict[str, tuple[float, float, float, float, float]]] = {
    "sp": {"input": (0, 0, 0, 0, 0), "hidden": (0, _H, 0, 0, 0), "output": (0, _H, 0, 0, 0)},
    "ntk": {
        "input": (0, 0, 0, _H, 0),
        "hidden": (_H, 0, 0, 1, 0),
        "output": (_H, 0, 0, _H, 0),
    },
    "mean_field": {"input": (0, 0, -1, 0, -_H), "output": (1, 0, -1, 0, _H - 1)},
    "mup": {
        "input": (-_H, _H, 0, _H, 0),
        "hidden": (0, _H, 0, 1, 0),
        "output": (_H, _H, 0, _H, 0),
    },
}
_UPDATES: tuple[Update, ...] = get_args(Update)
#: Where a method is fixed: spectral steps under SP and NTK have no place in the literature.
_NO_SPECTRAL = ("sp", "ntk")


def abc(parametrization: Parametrization, kind: Kind, *, update: Update = "gradient") -> ABC:
    r"""Return the exponents of a kind of weight in a parametrization, in their published form.

    | kind | which dimensions grow | examples |
    |---|---|---|
    | `input` | outputs alone | embeddings, first layers, gains, biases |
    | `hidden` | both | |
    | `output` | inputs alone | the head |
    | `fixed` | none | the head's bias |

    Args:
        parametrization: `"sp"` (standard), `"ntk"`, `"mean_field"` (one hidden layer), `"mup"` (maximal update), or
            `"spectral"`, which has the exponents of `"mup"` in the limit.
        kind: See the table.
        update: What a step is: `"gradient"` (SGD), `"entrywise"` (of a size that the gradient's does not change: Adam,
            sign descent), or `"spectral"` (of spectral norm one: Muon, Scion).

    Raises:
        ValueError: For another name, or a hidden matrix in the mean-field parametrization, where activations vanish.

    Example:
        >>> abc("mup", "hidden", update="entrywise")
        ABC(a=0.0, b=0.5, c=1.0)

    References:
        Yang and Hu (2021), arXiv 2011.14522, table 1. Yang et al. (2022), Tensor Programs V: tuning large neural
        networks via zero-shot hyperparameter transfer, arXiv 2203.03466, tables 3, 8 and 9. Yang and Littwin (2023),
        arXiv 2308.01814 (Adam in the kernel regime).
    """
    name = "mup" if parametrization == "spectral" else parametrization
    for what, value, known in (
        ("parametrization", name, tuple(_TABLE)),
        ("kind", kind, get_args(Kind)),
        ("update", update, _UPDATES),
    ):
        if value not in known:
            raise ValueError(f"{what}: expected one of {', '.join(known)}, got {value!r}")
    if kind == "fixed":
        return ABC(0.0, 0.0, 0.0)
    if update == "spectral" and name in _NO_SPECTRAL:
        raise ValueError(f"{parametrization} is defined for gradient and entrywise steps; take mup or spectral")
    if kind not in _TABLE[name]:
        raise ValueError(
            "the mean-field parametrization has no hidden matrices between two growing layers: their activations "
            "vanish with the width; use mup, which is the same for one hidden layer"
        )
    a, b, *rates = _TABLE[name][kind]
    return ABC(float(a), float(b), float(rates[_UPDATES.index(update)]))


def regime(parametrization: Parametrization, *, hidden_layers: int = 1, lr_exponent: float = 0.0) -> Regime:
    r"""Return what a network trained by gradient descent does in the limit of infinite width.

    With $r = \min(a_L + b_L, 2 a_L + c) + c - 1 + \min_l (2 a_l + [l = 1])$: features are learned at $r = 0$, nothing
    but a kernel at $r > 0$; below zero, or where the output moves at a rate that grows, training is unstable.

    Args:
        parametrization: See `abc`.
        hidden_layers: At least 1.
        lr_exponent: Added to c: learning rates go by $n^{-\text{lr_exponent}}$ on top.

    Raises:
        ValueError: As `abc` does, or without hidden layers.

    Example:
        >>> regime("mup", hidden_layers=3), regime("ntk"), regime("sp"), regime("sp", lr_exponent=1.0)
        ('feature learning', 'kernel', 'unstable', 'kernel')

    References:
        Yang and Hu (2021), arXiv 2011.14522, theorem 3.8 and definition 3.2.
    """
    if hidden_layers < 1:
        raise ValueError(f"hidden_layers: expected at least 1, got {hidden_layers}")
    hidden = [abc(parametrization, "hidden")] if hidden_layers > 1 else []
    rows = [abc(parametrization, "input"), *hidden, abc(parametrization, "output")]
    c = rows[0].c + lr_exponent
    first, last = rows[0], rows[-1]
    lowest = min([2 * first.a + 1, *(2 * row.a for row in rows[1:-1])])
    r = min(last.a + last.b, 2 * last.a + c) + c - 1 + lowest
    steady = 2 * last.a + c >= 1 and last.a + last.b + r >= 1
    if r < 0 or not steady:
        return "unstable"
    return "feature learning" if math.isclose(r, 0.0, abs_tol=1e-12) else "kernel"


def size_factors(
    parametrization: Parametrization, kind: Kind, fans: tuple[int, int], base: tuple[int, int], *, update: Update
) -> tuple[float, float]:
    r"""Return the factors of initial size and learning rate that take a weight from one width to another.

    There is no multiplier in them (`ABC.without_multiplier`), so that the forward pass stays as it is. The exponents of
    `abc` are taken to the ratio of the growing dimension; where both grow by unequal ratios, gradient and spectral
    steps have the ratio of both. `"spectral"` computes them from the shapes alone: size
    $\min(1, \sqrt{m/n}) / \sqrt n$, learning rate $m/n$ (gradient), $1/n$ (entrywise), $\sqrt{m/n}$ (spectral).

    Args:
        parametrization: See `abc`.
        kind: See `abc`; decides nothing in the spectral route.
        fans: Outputs m and inputs n; n = 1 for vectors and embeddings.
        base: The same at the base width, where all factors are 1.
        update: See `abc`.

    Returns:
        Factor of the initial standard deviation, factor of the learning rate.

    Raises:
        ValueError: As `abc` does.

    Example:
        >>> size_factors("mup", "hidden", (512, 512), (128, 128), update="entrywise")
        (0.5, 0.25)
    """
    exponents = abc(parametrization, kind, update=update).without_multiplier(update=update)
    if fans == base:
        return 1.0, 1.0
    rows, columns = fans[0] / base[0], fans[1] / base[1]
    if parametrization == "spectral":
        rates = {"gradient": rows / columns, "entrywise": 1 / columns, "spectral": math.sqrt(rows / columns)}
        return _spectral_size(*fans) / _spectral_size(*base), rates[update]
    width = rows if kind == "input" else columns
    rate = width**-exponents.c
    if kind == "hidden" and parametrization == "mup":
        rate *= {"gradient": rows / columns, "entrywise": 1.0, "spectral": math.sqrt(rows / columns)}[update]
    return width**-exponents.b, rate


def _spectral_size(rows: int, columns: int) -> float:
    return min(1.0, math.sqrt(rows / columns)) / math.sqrt(columns)
