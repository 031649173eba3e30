# SPDX-License-Identifier: Apache-2.0
"""Measures the error of functions and device functions over all 2^32 float32 inputs and records it.

python -m benchmarks.kernels.ulp                         every function: some three minutes each on one core
python -m benchmarks.kernels.ulp silu gelu --part 0/4    a quarter of the inputs; parts add up in the file
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.timing import RESULTS, machine
from steepest import functional
from steepest.kernels import _erf
from steepest.kernels._elementwise import MEMORY, _unary
from steepest.kernels._registry import specialize
from tests.kernels.accuracy import REFERENCES, Error, measure


def function(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the public function of that name, or a loop over the internal one."""
    if name == "gelu_tanh":
        return lambda x: functional.gelu(x, approximate="tanh")
    if name in functional.__all__:
        return getattr(functional, name)
    arguments, internal = "void(intp, intp, intp, intp)", getattr(_erf, f"{name}_f32")
    run = specialize(_unary, arguments, f"{name}_for_ulp", f=internal, **MEMORY["f32"]).run

    def loop(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        run(x.data_ptr(), y.data_ptr(), 0, x.numel())
        return y

    return loop


def row(name: str, error: Error, parts: list[str]) -> dict[str, Any]:
    """Return one function's record; inputs in hexadecimal, which is exact."""
    return {
        "function": name,
        "inputs": "all 2^32" if _complete(parts) else f"parts {' '.join(parts)} of 2^32",
        "max_ulp_normal": error.normal,
        "at": error.normal_at.hex(),
        "max_ulp_subnormal": error.subnormal,
        "subnormal_at": error.subnormal_at.hex(),
        "bar": REFERENCES[name][1],
        "parts": parts,
    }


def _complete(parts: list[str]) -> bool:
    count = int(parts[0].partition("/")[2])
    return {f"{i}/{count}" for i in range(count)} <= set(parts)


def joined(old: dict[str, Any] | None, name: str, error: Error, part: str) -> dict[str, Any]:
    """Return the record with this part's maxima in it."""
    if old is None or part in old["parts"]:
        return row(name, error, [part])
    normal = max((error.normal, error.normal_at), (old["max_ulp_normal"], float.fromhex(old["at"])))
    kept = (old["max_ulp_subnormal"], float.fromhex(old["subnormal_at"]))
    subnormal = max((error.subnormal, error.subnormal_at), kept)
    return row(name, Error(*normal, *subnormal), [*old["parts"], part])


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(REFERENCES))
    parser.add_argument("--part", default="0/1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    path = RESULTS / f"ulp_{about['simd'].lower()}-family{about['family']}-model{about['model']}_{about['date']}.json"
    index, _, count = options.part.partition("/")
    for name in options.names:
        error = measure(function(name), REFERENCES[name][0], one_in=1, part=(int(index), int(count)))
        rows = {r["function"]: r for r in json.loads(path.read_text())["rows"]} if path.exists() else {}
        rows[name] = joined(rows.get(name), name, error, options.part)
        _save(path, {"about": about, "rows": list(rows.values())})
        print(rows[name], flush=True)


def _save(path: Path, record: dict[str, object]) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
