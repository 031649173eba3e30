# SPDX-License-Identifier: Apache-2.0
"""Gated units and activations, forward and forward + backward, against torch eager and torch.compile.

Run `python -m benchmarks.kernels.gates` from the repository's root, on an idle machine, or name functions to run a
part of it; torch.compile needs a C++ compiler. The smaller size is in cache, the larger far outside.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernels.timing import RESULTS, Record
from steepest import functional

SHAPES = ((256, 1024), (4096, 4096))
DTYPES = (torch.float32, torch.bfloat16)
#: Name -> the activation of torch's eager form, `activation(gate) * up`.
GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "glu": torch.sigmoid,
    "reglu": torch.relu,
    "bilinear": lambda gate: gate,
}
UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"silu": F.silu, "gelu": F.gelu, "sigmoid": torch.sigmoid}


def both_ways(
    record: Record, case: dict[str, Any], functions: dict[str, Callable[..., torch.Tensor]], inputs: list[torch.Tensor]
) -> None:
    """Time the value without gradients, then the value with all gradients."""
    elements, out = inputs[0].numel(), inputs[0].nbytes
    read = sum(t.nbytes for t in inputs)
    grad = torch.randn(inputs[0].shape).to(inputs[0].dtype)

    def value(function: Callable[..., torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return function(*inputs)

    def step(function: Callable[..., torch.Tensor]) -> Any:
        return torch.autograd.grad(function(*inputs), inputs, grad)

    record.compare(
        {**case, "pass": "forward"},
        {name: lambda f=f: value(f) for name, f in functions.items()},
        elements=elements,
        bytes_moved=read + out,
        seconds=1.0,
    )
    record.compare(
        {**case, "pass": "forward + backward"},
        {name: lambda f=f: step(f) for name, f in functions.items()},
        elements=elements,
        bytes_moved=3 * read + 2 * out,
        seconds=1.5,
    )


def save(record: Record) -> Path:
    """Save the rows beside those of the same day for cases that this run has not measured."""

    def case(row: dict[str, Any]) -> str:
        return json.dumps([row[key] for key in ("function", "shape", "dtype", "pass", "name")])

    measured = {case(row) for row in record.rows}
    for path in RESULTS.glob(f"{record.theme}_*_{record.about['date']}.json"):
        rows = json.loads(path.read_text())["rows"]
        record.rows[:0] = [row for row in rows if case(row) not in measured]
    return record.save()


def main() -> None:
    """Measure and save."""
    record = Record("gates")
    for name in sys.argv[1:] or [*GATES, *UNARY]:
        for dtype in DTYPES:
            for shape in SHAPES:
                torch._dynamo.reset()
                torch.manual_seed(0)
                inputs = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(2 if name in GATES else 1)]
                eager = (lambda g, u, f=GATES[name]: f(g) * u) if name in GATES else UNARY[name]
                functions = {"steepest": getattr(functional, name), "torch": eager}
                if name in GATES:
                    functions["torch.compile"] = torch.compile(eager, dynamic=False)
                case = {"function": name, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
                both_ways(record, case, functions, inputs)
                save(record)


if __name__ == "__main__":
    main()
