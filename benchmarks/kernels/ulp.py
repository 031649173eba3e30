# SPDX-License-Identifier: Apache-2.0
"""Measures the error of every elementary function over all 2^32 float32 inputs and records it.

Run `python -m benchmarks.kernels.ulp` from the repository's root; two minutes a function on one core.
"""

import json

import torch

from benchmarks.kernels.timing import RESULTS, machine
from steepest import functional
from tests.kernels.accuracy import REFERENCES, Error, measure


def row(name: str, error: Error) -> dict[str, object]:
    """Return one function's record; inputs in hexadecimal, which is exact."""
    return {
        "function": name,
        "inputs": "all 2^32",
        "max_ulp_normal": error.normal,
        "at": error.normal_at.hex(),
        "max_ulp_subnormal": error.subnormal,
        "subnormal_at": error.subnormal_at.hex(),
        "bar": REFERENCES[name][1],
    }


def main() -> None:
    """Measure and save."""
    torch.set_num_threads(1)
    about, rows = machine(), []
    for name in (name for name in REFERENCES if name in functional.__all__):
        rows.append(row(name, measure(getattr(functional, name), REFERENCES[name][0], one_in=1)))
        print(rows[-1], flush=True)
    processor = f"{about['simd'].lower()}-family{about['family']}-model{about['model']}"
    path = RESULTS / f"ulp_{processor}_{about['date']}.json"
    path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
