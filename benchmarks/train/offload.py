# SPDX-License-Identifier: Apache-2.0
"""Training steps with the states in memory and on a disk, in turn, beside what the disk and the processor can do.

    python -m benchmarks.train.offload --rounds 7 --save benchmarks/results

Fixed before the run: 12 linear layers of 2048 x 2048 (50 million parameters, 403 MB of AdamW states), 64 rows, AdamW,
float32, one thread of torch (so that a second core is there for the disk's threads). Ways, one step of each in turn:
in memory; on the disk one stage after another (`serial`), in a pipeline after the backward pass (`pipelined`), in a
pipeline during it (`overlapped`), with the gradients on the disk too, and with the weights there (and all computed
again in the backward pass). Floors, measured in the same rounds: the step
of the optimizer in memory, and the bytes of a step read and written in pieces of the same size with nothing else to do.
Predictions are made of these floors alone. Medians and quartiles over the rounds.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steepest.kernels.checksum import checksum
from steepest.optim import AdamW
from steepest.train import machine
from steepest.train.offload import Offload, OffloadOptions, WeightStream
from steepest.train.offload.buffers import Buffer
from steepest.train.offload.cost import DiskRates, StepCost, Way, step_seconds
from steepest.train.offload.data_file import DataFile

LAYERS, WIDTH, ROWS = 12, 2048, 64
WAYS = {
    "serial": OffloadOptions(serial=True),
    "pipelined": OffloadOptions(),
    "overlapped": OffloadOptions(overlap=True),
    "gradients on disk": OffloadOptions(gradients="disk"),
}


class Case:
    """One way to train; `step` returns seconds by part."""

    def __init__(self, options: OffloadOptions | None, folder: Path, *, stream: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
        self.optimizer = AdamW(self.model.parameters(), lr=1e-4)
        self.offload = Offload(self.optimizer, folder, options) if options else None
        if self.offload and stream:
            WeightStream(self.offload, self.model, self.model.children())
        self.x = torch.randn(ROWS, WIDTH)

    def step(self) -> dict[str, float]:
        start = time.perf_counter()
        loss = self.model(self.x).square().mean()
        middle = time.perf_counter()
        loss.backward()
        late = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        self.optimizer.zero_grad()
        return {"forward": middle - start, "backward": late - middle, "optimizer": end - late, "step": end - start}


class Disk:
    """The bytes of a step, with nothing else to do; AdamW reads 8 bytes a parameter and writes 12."""

    def __init__(self, folder: Path, piece: int) -> None:
        self.file, self.pieces = DataFile(folder / "floor.bin"), LAYERS * WIDTH * WIDTH // piece
        self.reads, self.writes = Buffer(8 * piece), Buffer(12 * piece)
        self.file.grow(2 * self.pieces * len(self.writes.view))

    def step(self) -> dict[str, float]:
        size = len(self.writes.view)
        start = time.perf_counter()
        for i in range(self.pieces):
            self.file.write(self.writes.view, i * size)
        self.file.flush()
        middle = time.perf_counter()
        self._read()
        late = time.perf_counter()
        reading = threading.Thread(target=self._read)
        reading.start()
        for i in range(self.pieces):
            self.file.write(self.writes.view, (self.pieces + i) * size)
        self.file.flush()
        reading.join()
        end = time.perf_counter()
        checksum(self.writes.view)
        checked = time.perf_counter() - end
        return {"write": middle - start, "read": late - middle, "both": end - late, "checksum of a piece": checked}

    def _read(self) -> None:
        for i in range(self.pieces):
            self.file.read(self.reads.view, i * len(self.writes.view))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--save", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        cases: dict[str, Case] = {"memory": Case(None, Path(folder))}
        cases |= {name: Case(options, Path(folder) / name) for name, options in WAYS.items()}
        cases["weights on disk"] = Case(WAYS["overlapped"], Path(folder) / "weights", stream=True)
        disk = Disk(Path(folder), WAYS["pipelined"].tile_entries)
        runs: dict[str, Callable[[], dict[str, float]]] = {name: case.step for name, case in cases.items()}
        runs["disk"] = disk.step
        times: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for number in range(arguments.rounds + 1):
            for name, run in runs.items():
                taken = run()
                if number:  # the first compiles kernels and touches fresh blocks
                    times[name].append(taken)
        for case in cases.values():
            if case.offload:
                case.offload.close()
        weights = [list(case.model.parameters()) for case in cases.values()]
        same = all(torch.equal(p, q) for other in weights[1:] for p, q in zip(weights[0], other, strict=True))
    report(summary(times, same), arguments.save)


def summary(times: dict[str, list[dict[str, float]]], same: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, rows in times.items():
        found[name] = {}
        for part in rows[0]:
            values = [row[part] for row in rows]
            low, middle, high = statistics.quantiles(values, n=4)
            found[name][part] = {"median": middle, "quartiles": [low, high]}

    def median(name: str, part: str) -> float:
        return found[name][part]["median"]

    floors = {
        "compute": median("memory", "optimizer"),
        "read": median("disk", "read"),
        "write": median("disk", "write"),
        "read and write at once": median("disk", "both"),
    }
    ratios = {
        "pipelined_to_serial": median("pipelined", "optimizer") / median("serial", "optimizer"),
        "pipelined_to_largest_floor": median("pipelined", "optimizer") / max(floors.values()),
        "overlapped_to_pipelined_step": median("overlapped", "step") / median("pipelined", "step"),
        "overlapped_to_memory_step": median("overlapped", "step") / median("memory", "step"),
    }
    parameters = LAYERS * WIDTH * WIDTH
    disk = DiskRates(
        read=8 * parameters / floors["read"],
        write=12 * parameters / floors["write"],
        both=20 * parameters / floors["read and write at once"],
    )
    step = StepCost(
        forward=median("memory", "forward"),
        backward=median("memory", "backward"),
        update=floors["compute"],
        read=8 * parameters,
        write=12 * parameters,
        gradients=4 * parameters,
        pieces=parameters // WAYS["pipelined"].tile_entries,
        checked=12 * WAYS["pipelined"].tile_entries / median("disk", "checksum of a piece"),
    )
    ways: tuple[Way, ...] = ("memory", "serial", "pipelined", "overlapped", "gradients on disk")
    predictions = {way: {"predicted": step_seconds(way, step, disk), "measured": median(way, "step")} for way in ways}
    config = {"layers": LAYERS, "width": WIDTH, "rows": ROWS, "optimizer": "adamw", "rounds": len(times["disk"])}
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe_for_record(),
        "config": config,
        "same_weights": same,
        "seconds": found,
        "floors": floors,
        "ratios": ratios,
        "predictions": predictions,
        "disk_bytes_per_second": vars(disk),
    }


def report(result: dict[str, Any], save: Path | None) -> None:
    print(
        json.dumps(
            {key: result[key] for key in ("same_weights", "floors", "ratios", "predictions", "disk_bytes_per_second")},
            indent=2,
        )
    )
    if save:
        (save / named("offload", result)).write_text(json.dumps(result, indent=2) + "\n")


def named(theme: str, result: dict[str, Any]) -> str:
    """The name of a result's file: theme, hardware, date."""
    cpu = result["machine"]["cpu"]
    kind = "avx512" if "avx512f" in cpu["features"] else "avx2"
    return f"{theme}_epyc-{kind}-{cpu['cores']}cores_{result['date']}.json"


if __name__ == "__main__":
    main()
