# SPDX-License-Identifier: Apache-2.0
"""Step time and state of the low-rank methods and M-FAC beside AdamW and Muon.

    python -m benchmarks.optim.low_rank --shapes squares --threads 1 --save

Two sets of matrices: 16 of 256 x 256, and the hidden matrices of a Llama of 60 million parameters (8 layers of width
512, hidden width 1376; embedding and head, 32000 by 512 each, are left out: they are AdamW's in all methods). All
optimizers step the same parameters with the same gradients in one process, in turn, round after round; medians with
quartiles. M-FAC has a smaller window on the larger set, for memory. Polar factors are five Newton-Schulz steps in
float32 for all of ours; torch's Muon, which multiplies in bfloat16 alone, runs on the small set only: on a processor
without bfloat16 instructions it takes minutes on the other.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from steepest.geometry import published_iteration
from steepest.optim import MFAC, AdamW, DCTAdamW, Dion, Dion2, Engine, Muon, Options, Trion
from steepest.train import machine

RESULTS = Path(__file__).parent.parent / "results"
LAYER = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)]
SHAPES = {"squares": [(256, 256)] * 16, "llama-60m": LAYER * 8}
WINDOW = {"squares": 256, "llama-60m": 16}

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def methods(shapes: str) -> dict[str, Make]:
    """Return the optimizers by name; the ranks are a quarter of the short side."""
    rank = min(SHAPES[shapes][0]) // 4
    bits = Options(state_dtype="8bit")
    window = WINDOW[shapes]
    polar = published_iteration("muon").with_compute(torch.float32)
    baseline: dict[str, Make] = {"torch Muon (bfloat16)": lambda p: torch.optim.Muon(p)}
    return {
        **(baseline if shapes == "squares" else {}),
        "torch AdamW (fused)": lambda p: torch.optim.AdamW(p, fused=True),
        "AdamW": AdamW,
        "Muon": lambda p: Muon(p, polar=polar),
        "Trion": lambda p: Trion(p, rank=rank, polar=polar),
        "Dion": lambda p: Dion(p, rank_fraction=0.25),
        "Dion, full rank": lambda p: Dion(p),
        "Dion2": lambda p: Dion2(p, fraction=0.25, polar=polar),
        "DCTAdamW": lambda p: DCTAdamW(p, rank=rank),
        "DCTAdamW, error in 8 bits": lambda p: DCTAdamW(p, rank=rank, options=bits),
        "DCTAdamW, no feedback": lambda p: DCTAdamW(p, rank=rank, error_feedback=False),
        "DCTAdamW, no feedback, gap 10": lambda p: DCTAdamW(p, rank=rank, error_feedback=False, update_proj_gap=10),
        f"MFAC, window {window}": lambda p: MFAC(p, window=window, memory_limit=1e10),
    }


def state_bytes(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> float:
    """Return the bytes of state for each parameter number; scalars (step counters) are left out."""
    tensors = [t for p in params for t in optimizer.state[p].values() if isinstance(t, torch.Tensor) and t.ndim]
    return sum(t.numel() * t.element_size() for t in tensors) / sum(p.numel() for p in params)


def compare(shapes: str, rounds: int, steps: int, only: list[str]) -> dict:
    """Time all methods in turn and return the result."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for shape in SHAPES[shapes]]
    count = sum(p.numel() for p in params)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) / count**0.5
    optimizers = {name: make(params) for name, make in methods(shapes).items() if not only or name in only}
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    warm = WINDOW[shapes]
    for name, optimizer in optimizers.items():
        # M-FAC is timed with a full window, where all its rows differ.
        for _ in range(warm if name.startswith("MFAC") else 1):
            if name.startswith("MFAC"):
                for p in params:
                    torch.nn.init.normal_(p.grad, std=count**-0.5, generator=generator)  # pyright: ignore[reportArgumentType]
            optimizer.step()
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            for _ in range(steps):
                optimizer.step()
            seconds[name].append((time.perf_counter() - start) / steps)
    rows = {}
    for name, times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4)
        rows[name] = {
            "milliseconds": [round(1e3 * t, 3) for t in (low, median, high)],
            "state_bytes_per_parameter": round(state_bytes(optimizers[name], params), 3),
            "ours": isinstance(optimizers[name], Engine),
        }
    return {"shapes": shapes, "parameters": count, "rounds": rounds, "steps": steps, "methods": rows}


def main() -> None:
    """Measure one set of shapes and append it to the day's result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="squares", choices=tuple(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--steps", type=int, default=10, help="a multiple of 10 times one choice of columns in 10 fairly"
    )
    parser.add_argument("--only", action="append", default=[], help="a method by name; give it several times")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "threads": arguments.threads,
        **compare(arguments.shapes, arguments.rounds, arguments.steps, arguments.only),
    }
    print(json.dumps(result, indent=1))
    if arguments.save:
        path = RESULTS / f"low_rank_amd-epyc_{datetime.date.today().isoformat()}.json"
        described = {key: value for key, value in machine.describe().items() if key != "disk"}
        known = json.loads(path.read_text()) if path.exists() else {"machine": described, "results": []}
        known["results"].append(result)
        path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
