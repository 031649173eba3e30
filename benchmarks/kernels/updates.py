# SPDX-License-Identifier: Apache-2.0
"""Optimizer updates of whole lists of tensors against torch.optim: one process, in turn, one and two threads.

Run `python -m benchmarks.kernels.updates` from the repository's root, on an idle machine. Each time is of a whole step:
checks, table of addresses and sweep here, `Optimizer.step` there. The first call with an empty cache is timed in a
process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.timing import Record
from steepest.kernels.updates import AdamHyper, MomentumHyper, Noise, adam_step_, momentum_step_, state_zeros

Step = Callable[[], Any]
STATES = (torch.float32, torch.bfloat16, torch.uint8)
COLD = """
import json, time, torch
from steepest.kernels.updates import AdamHyper, adam_step_
p, g, m, v = (torch.ones(1000, 7) for _ in range(4))
begun = time.perf_counter()
adam_step_([p], [g], [m], [v], None, AdamHyper(lr=1e-3))
print(json.dumps(time.perf_counter() - begun))
"""


def llama_shapes() -> list[tuple[int, ...]]:
    """Return the shapes of a Llama of 58 M parameters: width 512, 8 layers, vocabulary 32,000, head not tied."""
    block = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)] + [(512,)] * 2
    return [(32000, 512)] * 2 + block * 8 + [(512,)]


CASES: dict[str, list[tuple[int, ...]]] = {
    "16 matrices 256 x 256": [(256, 256)] * 16,
    "Llama 58 M": llama_shapes(),
    "200 tiny tensors": [(64,)] * 100 + [(16, 16)] * 100,
}


def steps(shapes: list[tuple[int, ...]], loop: bool) -> dict[str, Step]:
    """Return the alternatives on parameters of these shapes; the for-loop of torch only if asked."""
    params = [torch.randn(shape) for shape in shapes]
    grads = [torch.randn_like(p) for p in params]
    runs: dict[str, Step] = {}
    for state in STATES:
        runs[f"steepest AdamW, {state} states"] = _adam(params, grads, state)
    runs["steepest momentum"] = _momentum(params, grads)
    runs["torch AdamW fused"] = _torch(params, grads, torch.optim.AdamW, lr=1e-3, fused=True)
    runs["torch SGD momentum fused"] = _torch(params, grads, torch.optim.SGD, lr=1e-3, momentum=0.9, fused=True)
    if loop:
        runs["torch AdamW for-loop"] = _torch(params, grads, torch.optim.AdamW, lr=1e-3, foreach=False, fused=False)
    return runs


def _adam(params: list[Tensor], grads: list[Tensor], state: torch.dtype) -> Step:
    own = [p.clone() for p in params]
    m, v = ([state_zeros(p, state) for p in own] for _ in range(2))
    noise = None if state == torch.float32 else Noise(0, 1)
    hyper = AdamHyper(lr=1e-3, weight_decay=0.01, step=10, noise=noise)
    return lambda: adam_step_(own, grads, m, v, None, hyper)


def _momentum(params: list[Tensor], grads: list[Tensor]) -> Step:
    own = [p.clone() for p in params]
    buffers = [state_zeros(p, torch.float32) for p in own]
    return lambda: momentum_step_(own, grads, buffers, MomentumHyper(lr=1e-3, momentum=0.9))


def _torch(params: list[Tensor], grads: list[Tensor], kind: Any, **options: Any) -> Step:
    own = [p.clone().requires_grad_() for p in params]
    for p, g in zip(own, grads, strict=True):
        p.grad = g
    return kind(own, **options).step


def cold_seconds() -> dict[str, float]:
    """Return the time of the first step with an empty cache and with a full one, each in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-c", COLD]
        runs = [subprocess.run(command, env=environment, check=True, capture_output=True) for _ in range(2)]
    times = [json.loads(run.stdout) for run in runs]
    return {"empty_cache": times[0], "full_cache": times[1]}


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    first = cold_seconds()
    print(first)
    record = Record(f"updates-{options.threads}threads", threads=options.threads)
    record.about["first_step_seconds"] = first
    for name in options.case or CASES:
        elements = sum(torch.Size(shape).numel() for shape in CASES[name])
        runs = steps(CASES[name], loop=True)
        record.compare({"case": name}, runs, elements=elements, bytes_moved=28 * elements, seconds=8.0)
    print(record.save())


if __name__ == "__main__":
    main()
