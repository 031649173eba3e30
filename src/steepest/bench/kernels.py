# SPDX-License-Identifier: Apache-2.0
"""The kernels beside torch eager, torch.compile, onnxruntime and jax: the cases of `steepest bench kernels`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest import functional
from steepest.bench import peers
from steepest.bench.peers import Call
from steepest.bench.timing import Record

#: Seconds for one case, and for one of a quick run.
SECONDS, QUICK_SECONDS = 1.0, 0.15


@dataclass(frozen=True)
class Case:
    """One comparison: what is timed, on what, and the useful traffic in bytes."""

    group: str
    function: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes_per_element: int
    make: Callable[[], dict[str, Call]]

    @property
    def elements(self) -> int:
        """Number of elements of the input."""
        return torch.Size(self.shape).numel()

    @property
    def key(self) -> dict[str, str]:
        """What distinguishes the case in a record."""
        return {
            "group": self.group,
            "function": self.function,
            "shape": " x ".join(map(str, self.shape)),
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def _normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(2).to(dtype)


def _with_peers(calls: dict[str, Call], **found: Call | None) -> dict[str, Call]:
    return calls | {name: call for name, call in found.items() if call is not None}


def _rows(name: str, shape: tuple[int, ...], quick: bool) -> Case:
    plain = {"softmax": torch.softmax, "log_softmax": torch.log_softmax, "logsumexp": torch.logsumexp}[name]

    def make() -> dict[str, Call]:
        x, ours = _normal(*shape), getattr(functional, name)
        calls = peers.alternatives(lambda x: ours(x, -1), lambda x: plain(x, -1), (x,), compile_too=not quick)
        operator = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}.get(name)
        other = peers.onnx(operator, x, axis=-1) if operator else None
        return _with_peers(calls, onnxruntime=other, jax=peers.jax(f"nn.{name}", x) if name != "logsumexp" else None)

    return Case("softmax", name, shape, torch.float32, 8 if name != "logsumexp" else 4, make)


_ONNX = {"exp": "Exp", "log": "Log", "sigmoid": "Sigmoid", "tanh": "Tanh", "erf": "Erf", "softplus": "Softplus"}
_JAX = {"erf": "lax.erf", "sigmoid": "nn.sigmoid", "softplus": "nn.softplus", "silu": "nn.silu", "gelu": "nn.gelu"}


def _elementwise(name: str, size: int, dtype: torch.dtype, quick: bool, group: str = "elementary") -> Case:
    plain: Any = getattr(torch, name, None) or getattr(F, name)

    def make() -> dict[str, Call]:
        x = (_normal(size).abs() + 0.1).to(dtype)
        calls = peers.alternatives(getattr(functional, name), plain, (x,), compile_too=not quick)
        other = peers.onnx(_ONNX[name], x) if name in _ONNX else None
        known = name != "gelu" and peers.jax(_JAX.get(name, f"numpy.{name}"), x)  # jax's gelu is the other one
        return _with_peers(calls, onnxruntime=other, jax=known or None)

    return Case(group, name, (size,), dtype, 2 * dtype.itemsize, make)


def _loss(shape: tuple[int, int], dtype: torch.dtype, quick: bool) -> Case:
    def make() -> dict[str, Call]:
        x = _normal(*shape, dtype=dtype).requires_grad_()
        target = torch.randint(shape[1], shape[:1], generator=torch.Generator().manual_seed(1))
        calls = peers.alternatives(
            lambda x: functional.cross_entropy(x, target),
            lambda x: F.cross_entropy(x, target),
            (x,),
            compile_too=not quick,
        )
        return peers.steps(calls, (x,))

    # The logits are read for the loss and once more for the gradient, which is written.
    return Case("cross_entropy", "cross_entropy + backward", shape, dtype, 3 * dtype.itemsize, make)


def _pair(name: str, activation: Callable[[Tensor], Tensor], shape: tuple[int, int], quick: bool) -> Case:
    def make() -> dict[str, Call]:
        gate, up = _normal(*shape).requires_grad_(), _normal(*shape).requires_grad_()
        calls = peers.alternatives(
            getattr(functional, name), lambda gate, up: activation(gate) * up, (gate, up), compile_too=not quick
        )
        return peers.steps(calls, (gate, up))

    # Forward 2 reads and 1 write, backward 3 reads and 2 writes.
    return Case("gated", f"{name} + backward", shape, torch.float32, 32, make)


def _norm(shape: tuple[int, int], quick: bool) -> Case:
    def make() -> dict[str, Call]:
        x, weight = _normal(*shape).requires_grad_(), torch.ones(shape[1], requires_grad=True)
        calls = peers.alternatives(
            lambda x, w: functional.rms_norm(x, w, eps=1e-6),
            lambda x, w: F.rms_norm(x, (shape[1],), w, eps=1e-6),
            (x, weight),
            compile_too=not quick,
        )
        return peers.steps(calls, (x, weight))

    return Case("normalization", "rms_norm + backward", shape, torch.float32, 20, make)


def cases(*, quick: bool = False) -> list[Case]:
    """Return every case, without making its tensors.

    Args:
        quick: Fewer and smaller ones, and nothing compiled by torch.compile.

    Returns:
        The cases, by group.
    """
    shapes: list[tuple[int, ...]] = [(4096, 64), (256, 1024), (16, 16384), (4, 262144)]
    found = [_rows("softmax", shape, quick) for shape in (shapes if quick else [*shapes, (1, 1 << 24)])]
    found += [_rows(name, (64, 8192), quick) for name in ("log_softmax", "logsumexp")]
    names = ("exp", "exp2", "expm1", "log", "log1p", "sigmoid", "tanh", "erf", "softplus")
    sizes = (1 << 16,) if quick else (1 << 16, 1 << 22)
    found += [_elementwise(name, size, torch.float32, quick) for name in names for size in sizes]
    found += [_elementwise("exp", size, torch.bfloat16, quick) for size in sizes]
    found += [
        _elementwise(name, size, torch.float32, quick, "activations") for name in ("silu", "gelu") for size in sizes
    ]
    rows = (256, 8192) if quick else (1024, 50257)
    found += [_loss(rows, dtype, quick) for dtype in (torch.float32, torch.bfloat16)]
    matrix = (256, 1024) if quick else (2048, 4096)
    found += [_pair("swiglu", F.silu, matrix, quick), _pair("geglu", F.gelu, matrix, quick), _norm(matrix, quick)]
    return found


def groups() -> list[str]:
    """Return the names of the groups, in order.

    Returns:
        Each once.
    """
    return list(dict.fromkeys(case.group for case in cases(quick=True)))


def chosen(only: list[str], *, quick: bool) -> list[Case]:
    """Return the cases whose group or function was asked for.

    Args:
        only: Names of groups or functions; empty for all.
        quick: As for `cases`.

    Returns:
        The cases.

    Raises:
        ValueError: If a name fits nothing.
    """
    everything = cases(quick=quick)
    names = {case.function.partition(" ")[0] for case in everything} | {case.group for case in everything}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"no benchmark is named {unknown[0]!r}; expected one of {', '.join(sorted(names))}")
    return [case for case in everything if not only or {case.group, case.function.partition(" ")[0]} & set(only)]


def measure(record: Record, wanted: list[Case], *, quick: bool = False) -> Iterator[Case]:
    """Time cases one after the other into a record.

    Args:
        record: Gets the rows.
        wanted: What to time.
        quick: Less time for each.

    Yields:
        Each case before it is timed.
    """
    with peers.processors(record.threads):
        for case in wanted:
            yield case
            record.compare(
                case.key,
                case.make(),
                elements=case.elements,
                bytes_moved=case.bytes_per_element * case.elements,
                seconds=QUICK_SECONDS if quick else SECONDS,
            )
