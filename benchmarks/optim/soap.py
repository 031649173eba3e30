# SPDX-License-Identifier: Apache-2.0
"""SOAP beside pytorch-optimizer's: time of a step, of one that refreshes the bases, and of a whole cycle.

Seconds are processor time of the process by one thread, elapsed time by more.

Run `python -m benchmarks.optim.soap --threads 1` from the repository's root, on an idle machine, with
`pytorch-optimizer` installed. All take the same steps in turn, with new gradients at each; a cycle is the number of
steps between two refreshments (10), so that its mean is what training pays.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib import metadata

import pytorch_optimizer  # pyright: ignore[reportMissingImports]
import torch

from benchmarks.kernels.timing import Record
from steepest.optim import SOAP

FREQUENCY = 10
#: 16 squares; four transformer blocks of width 256; one of the eight equal layers of a 60M-parameter Llama.
CASES = {
    "squares": [(256, 256)] * 16,
    "transformer": [(768, 256), (256, 256), (1024, 256), (256, 1024)] * 4,
    "llama": [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)],
}
Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "steepest": lambda params: SOAP(params, precondition_frequency=FREQUENCY),
    "steepest, staggered": lambda params: SOAP(params, precondition_frequency=FREQUENCY, stagger=True),
    "pytorch-optimizer": lambda params: pytorch_optimizer.SOAP(params, precondition_frequency=FREQUENCY),
}


def run(shapes: list[tuple[int, int]], names: list[str], cycles: int) -> dict[str, list[float]]:
    """Return the seconds of each step after the first, for each optimizer."""
    generator = torch.Generator().manual_seed(0)
    sets = {name: [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes] for name in names}
    optimizers = {name: OPTIMIZERS[name](params) for name, params in sets.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(1 + cycles * FREQUENCY):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for name, optimizer in optimizers.items():
            for p, gradient in zip(sets[name], gradients, strict=True):
                p.grad = gradient
            begun = clock()
            optimizer.step()
            seconds[name].append(clock() - begun)
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES, default="squares")
    parser.add_argument("--cycles", type=int, default=3)
    arguments = parser.parse_args()
    record = Record(f"optim_soap_{arguments.case}_{arguments.threads}threads", threads=arguments.threads)
    record.about["versions"]["pytorch-optimizer"] = metadata.version("pytorch-optimizer")
    names = [name for name in OPTIMIZERS if arguments.case != "llama" or "staggered" not in name]
    seconds = run(CASES[arguments.case], names, arguments.cycles)
    record.about["load_average"] = os.getloadavg()[0]
    for name, values in seconds.items():
        even = "staggered" in name
        plain = [s for i, s in enumerate(values, 1) if even or i % FREQUENCY]
        refresh = [s for i, s in enumerate(values, 1) if not even and not i % FREQUENCY]
        whole = [sum(values[i : i + FREQUENCY]) / FREQUENCY for i in range(0, len(values), FREQUENCY)]
        row = {
            "case": arguments.case,
            "name": name,
            "plain_step_seconds": statistics.median(plain),
            "fastest_plain_step_seconds": min(plain),
            "refreshing_step_seconds": statistics.median(refresh) if refresh else None,
            "mean_of_a_cycle_seconds": statistics.median(whole),
            "fastest_cycle_mean_seconds": min(whole),
            "peak_step_seconds": statistics.median(
                max(values[i : i + FREQUENCY]) for i in range(0, len(values), FREQUENCY)
            ),
        }
        record.rows.append(row)
        times = {
            key.removesuffix("_seconds"): f"{1e3 * value:.1f} ms"
            for key, value in row.items()
            if isinstance(value, float)
        }
        print(name, times)
    print(record.save())


if __name__ == "__main__":
    main()
