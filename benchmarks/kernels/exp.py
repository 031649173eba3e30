# SPDX-License-Identifier: Apache-2.0
"""exp against a loop in C with vector intrinsics, `exp_loop.c`, compiled here for this processor.

Run `python -m benchmarks.kernels.exp` from the repository's root, on an idle machine; without gcc or cc it says so.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.timing import Record
from steepest.functional import exp
from steepest.kernels import kernels

SOURCE = Path(__file__).with_name("exp_loop.c")


def c_loop(folder: Path) -> Any:
    """Return the compiled C function (x, y, count), or None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "exp_loop.so"
    flags = ["-O3", "-march=native", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
    function = ctypes.CDLL(str(library)).exp_loop
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t], None
    return function


def calls(size: int, loop: Any) -> dict[str, Callable[[], Any]]:
    """Return the kernel, the C loop and torch on `size` numbers, after a look at whether they do the same."""
    kernel = kernels()["exp_f32"]
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 10
    y, z = torch.empty_like(x), torch.empty_like(x)
    loop(x.data_ptr(), y.data_ptr(), size)
    kernel.run(x.data_ptr(), z.data_ptr(), 0, size)
    assert torch.allclose(y, z, rtol=4e-7, atol=0), "the two loops must do the same"
    return {
        "steepest, preallocated": lambda: kernel.run(x.data_ptr(), y.data_ptr(), 0, size),
        "C, preallocated": lambda: loop(x.data_ptr(), y.data_ptr(), size),
        "torch, preallocated": lambda: torch.exp(x, out=y),
        "copy_": lambda: y.copy_(x),
        "steepest": lambda: exp(x),
        "torch": lambda: torch.exp(x),
    }


def main() -> None:
    """Measure and save."""
    with tempfile.TemporaryDirectory() as folder:
        loop = c_loop(Path(folder))
        if loop is None:
            print("no C compiler here: nothing to compare with")
            return
        record = Record("exp")
        for size in (1 << 12, 1 << 16, 1 << 20, 1 << 24):
            case = {"elements": size}
            record.compare(case, calls(size, loop), elements=size, bytes_moved=8 * size, seconds=0.8)
        print(record.save())


if __name__ == "__main__":
    main()
