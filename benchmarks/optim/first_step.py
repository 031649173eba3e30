# SPDX-License-Identifier: Apache-2.0
"""How long the first step of each optimizer waits in a fresh process: with no kernel on disk, and with them there.

Run `python -m benchmarks.optim.first_step` from the repository's root, on an idle machine. Each optimizer has a process
and an empty cache of its own. It steps a small model (an embedding, two hidden matrices, a normalization with gain and
bias, a head), so that methods for matrices also need AdamW's kernel; the package, with it the compiler, is imported
before. What is counted is the first step beyond the second one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn

from benchmarks.kernels.timing import RESULTS, Record
from steepest.kernels import kernels
from steepest.optim.catalogue import example
from steepest.optim.spec import optimizers


def waited(name: str) -> dict[str, object]:
    """Take two steps and return the seconds of the first beyond the second, and the kernels that were made."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(64, 32), nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 32), nn.Linear(32, 64)
    )
    settings = {"window": 4} if name == "mfac" else {}
    optimizer = example(optimizers()[name], model, **settings)
    model(torch.arange(16)).square().mean().backward()
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds[0] - seconds[1], "kernels": [k.name for k in kernels().values() if k.compiled]}


def in_a_process(name: str, cache: str) -> dict[str, object]:
    """Return what `waited` returns in a fresh process whose kernels lie in a folder."""
    command = [sys.executable, "-m", "benchmarks.optim.first_step", "--inside", name]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", metavar="NAME", help="measure in this process, and print one line")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        help="an optimizer by name; several times for several; rows of others stay",
    )
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(waited(arguments.inside)))
        return
    record = Record("optim_first_step", threads=1)
    for name in dict.fromkeys(arguments.only) or optimizers():
        with tempfile.TemporaryDirectory() as cache:
            cold, loaded = in_a_process(name, cache), in_a_process(name, cache)
        row = {
            "name": name,
            "cold_seconds": cold["seconds"],
            "loaded_seconds": loaded["seconds"],
            "kernels": cold["kernels"],
        }
        record.rows.append(row)
        print(
            f"{name:16s} {row['cold_seconds']:.2f} s, from disk {row['loaded_seconds']:.2f} s  {row['kernels']}",
            flush=True,
        )
    path = RESULTS / f"{record.stem}.json"
    if path.exists():
        known = json.loads(path.read_text())["rows"]
        again = {row["name"] for row in record.rows}
        record.rows = sorted(
            record.rows + [row for row in known if row["name"] not in again], key=lambda row: row["name"]
        )
    print(record.save())


if __name__ == "__main__":
    main()
