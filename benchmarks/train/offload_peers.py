# SPDX-License-Identifier: Apache-2.0
"""Training steps with states on a disk, beside DeepSpeed's offload to NVMe and to memory.

    pip install --target peers --no-deps deepspeed==0.19.8 hjson einops msgpack py-cpuinfo pydantic pydantic-core \
        annotated-types typing-inspection   # its kernels need g++, ninja and libaio's headers (Debian: libaio-dev)
    export PYTHONPATH=.:peers DS_ACCELERATOR=cpu OMP_NUM_THREADS=1
    python -m benchmarks.train.offload_peers --part speed --save benchmarks/results
    python -m benchmarks.train.offload_peers --part memory --save benchmarks/results

Each run is added to one record; the first compiles DeepSpeed's kernels, minutes on one core. Fixed before the run:
model, data, seed, float32, AdamW and one thread of torch as in `benchmarks.train.offload`, whose ways are taken over.
Speed: one process, a step of each way in turn, shuffled in each round; medians and quartiles over the rounds after the
first two, from before the forward pass until gradients are gone; bytes by `/proc/self/io`. Memory: a process for each
way, whose peak is read from outside, of its whole life and of steps after the second alone; with the C library as it
is, and so that it gives freed memory back at once. Weights: beside torch's, ours in memory, and a float64 run.

DeepSpeed's settings: neither bf16 nor fp16; groups and gradient buckets of one matrix, the smallest it can have (by
default all of this model is one group and one bucket); weights up to one matrix stay whole, which saves it copies; four
buffers of one matrix, 64 MiB as ours, and twelve, 192 MiB, where it reads and writes ahead: with eleven it asks for
more. Ours has two ways with 192 MiB for that. Two settings of `aio`: its default, and a queue of 32 with two threads.
"""

import argparse
import datetime
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.train.offload import LAYERS, ROWS, WAYS, WIDTH, Case, named
from steepest.train import machine
from steepest.train.offload import OffloadOptions

MATRIX = WIDTH * WIDTH
#: The defaults of all three libraries, by value.
ADAMW: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
MANY = 12
AIO: dict[str, dict[str, int]] = {
    "": {"block_size": 1 << 20, "queue_depth": 8, "intra_op_parallelism": 1},
    ", deep queue": {"block_size": 1 << 20, "queue_depth": 32, "intra_op_parallelism": 2},
}
OURS: dict[str, OffloadOptions | None] = {"memory": None} | WAYS
for _way in ("pipelined", "gradients on disk"):
    OURS[f"{_way}, 192 MiB"] = replace(WAYS[_way], buffer_bytes=4 * MATRIX * MANY)
AHEAD = {"pipeline_read": True, "pipeline_write": True, "buffer_count": MANY}
PEERS: dict[str, tuple[int, dict[str, Any]]] = {
    "DeepSpeed, memory, ZeRO-2": (2, {"device": "cpu"}),
    "DeepSpeed, memory, ZeRO-3": (3, {"device": "cpu"}),
}
for _aio in AIO:
    PEERS[f"DeepSpeed, NVMe{_aio}"] = (3, {"device": "nvme", "buffer_count": 4})
    PEERS[f"DeepSpeed, NVMe, pipelined{_aio}"] = (3, {"device": "nvme"} | AHEAD)
NAMES = ["torch", *OURS, *PEERS]
IMPORTS = ["imports", "imports with DeepSpeed"]


class Plain:
    """A way of `benchmarks.train.offload`, or `torch.optim.AdamW` in memory in its place."""

    def __init__(self, name: str, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        case = Case(OURS.get(name), folder / name)
        if name == "torch":
            case.model.to(dtype)
            case.x = case.x.to(dtype)
            case.optimizer = torch.optim.AdamW(case.model.parameters(), **ADAMW)  # pyright: ignore[reportAttributeAccessIssue]
        self.model, self.step = case.model, case.step

    def weights(self) -> list[Tensor]:
        return list(self.model.parameters())


class DeepSpeed:
    def __init__(self, name: str, folder: Path) -> None:
        stage, offload = PEERS[name]
        self.deepspeed, case = deepspeed(), Case(None, folder)  # the same weights and data
        zero: dict[str, Any] = {"stage": stage, "offload_optimizer": dict(offload), "reduce_bucket_size": MATRIX}
        if stage == 3:
            zero |= {"sub_group_size": MATRIX, "stage3_param_persistence_threshold": MATRIX}
        if offload["device"] == "nvme":
            zero["offload_optimizer"]["nvme_path"] = str(folder / name)
        config = {
            "train_micro_batch_size_per_gpu": ROWS,
            "optimizer": {"type": "AdamW", "params": ADAMW},
            "zero_optimization": zero,
            "aio": AIO[", deep queue" if name.endswith(", deep queue") else ""],
            "steps_per_print": 1 << 30,
        }
        parts = self.deepspeed.initialize(model=case.model, model_parameters=case.model.parameters(), config=config)
        self.engine, self.x = parts[0], case.x

    def step(self) -> dict[str, float]:
        start = time.perf_counter()
        loss = self.engine(self.x).square().mean()
        middle = time.perf_counter()
        self.engine.backward(loss)
        late = time.perf_counter()
        self.engine.step()  # drops gradients, too
        return {"forward": middle - start, "backward": late - middle, "optimizer": time.perf_counter() - late}

    def weights(self) -> list[Tensor]:
        parameters = list(self.engine.module.parameters())
        with self.deepspeed.zero.GatheredParameters(parameters):
            return [p.detach().clone() for p in parameters]


def deepspeed() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for key, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("MASTER_PORT", str(20000 + os.getpid() % 10000))
    try:
        return importlib.import_module("deepspeed")
    except ImportError as error:
        raise SystemExit(f"{error}: this benchmark needs DeepSpeed; its first lines say how to get it") from error


def build(name: str, folder: Path) -> Any:
    return (DeepSpeed if name in PEERS else Plain)(name, folder)


def counted() -> dict[str, int]:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"bytes read": int(lines["read_bytes"]), "bytes written": int(lines["write_bytes"])}


def timed(run: Any) -> dict[str, float]:
    before, start = counted(), time.perf_counter()
    parts = run.step() | {"step": time.perf_counter() - start}
    return parts | {key: value - before[key] for key, value in counted().items()}


def speed(rounds: int, folder: Path) -> dict[str, Any]:
    runs = {name: build(name, folder) for name in NAMES}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    shuffled = random.Random(0)
    for number in range(rounds + 2):
        for name in shuffled.sample(list(runs), len(runs)):
            taken = timed(runs[name])
            if number > 1:  # the first compile and make files; DeepSpeed reads its averages from the second on
                rows[name].append(taken)
    found = {name: {part: spread([row[part] for row in rows[name]]) for part in rows[name][0]} for name in rows}
    found = {"ways": found, "weights": agreement(runs, rounds + 2, folder)}
    return {"rounds": rounds, "order": "shuffled in each round"} | found


def spread(values: list[float]) -> dict[str, Any]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "quartiles": [low, high]}


def agreement(runs: dict[str, Any], steps: int, folder: Path) -> dict[str, Any]:
    """How far the weights are from those in memory, and from a float64 run of the same steps."""
    exact = Plain("torch", folder, torch.float64)
    for _ in range(steps):
        exact.step()
    goal = exact.weights()
    found: dict[str, Any] = {"steps": steps, "moved": distance(Case(None, folder).model.parameters(), goal)}
    for name, run in runs.items():
        weights = run.weights()
        found[name] = {"to_float64": distance(weights, goal)}
        for other in ("torch", "memory"):
            found[name][f"equals_{other}"] = all(map(torch.equal, weights, runs[other].weights()))
            found[name][f"to_{other}"] = distance(weights, runs[other].weights())
    return found


def distance(weights: Iterable[Tensor], goal: Iterable[Tensor]) -> dict[str, float]:
    with torch.no_grad():
        gaps = torch.cat([(p.double() - q.double()).flatten() for p, q in zip(weights, goal, strict=True)])
    return {"largest": gaps.abs().max().item(), "rms": gaps.square().mean().sqrt().item()}


def memory(folder: Path) -> dict[str, Any]:
    """Peaks of a process for each way, in bytes, under two settings of the C library."""
    kinds = {"as_it_is": {}, "freed_memory_given_back": {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}}
    return {kind: {name: watch(name, folder, extra) for name in [*IMPORTS, *NAMES]} for kind, extra in kinds.items()}


def watch(name: str, folder: Path, extra: dict[str, str]) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.train.offload_peers", "--alone", name, "--folder", str(folder)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    peaks: list[int] = []
    with subprocess.Popen(command, env=os.environ | extra, **pipes) as process:
        for line in process.stdout or ():
            if line == "waiting\n":
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks.append(int(status.split("VmHWM:")[1].split()[0]) * 1024)
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the mark of the peak goes back to now
                print("on", file=process.stdin, flush=True)
    if process.returncode:
        raise SystemExit(f"the process of {name!r} ended with status {process.returncode}; see its error above")
    return {"whole_life": max(peaks), "steps": peaks[1]}


def alone(name: str, folder: Path) -> None:
    # Two steps, a word to the process that measures, three steps, a word.
    if name == "imports with DeepSpeed":
        deepspeed()
    run: Any = None if name in IMPORTS else build(name, folder)
    for steps in (2, 3):
        for _ in range(steps if run else 0):
            run.step()
        print("waiting", flush=True)
        sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=["speed", "memory"], default="speed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--save", type=Path, default=None)
    parser.add_argument("--alone", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.alone:
            return alone(arguments.alone, Path(folder))
        deepspeed()
        part = speed(arguments.rounds, Path(folder)) if arguments.part == "speed" else memory(Path(folder))
    print(json.dumps(part, indent=2))
    if arguments.save:
        keep(arguments.part, part, arguments.save)


def keep(name: str, part: dict[str, Any], save: Path) -> None:
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine.describe_for_record()}
    path = save / named("offload_peers", result)
    if path.exists():
        result = json.loads(path.read_text())
    config = {"layers": LAYERS, "width": WIDTH, "rows": ROWS, "aio": AIO, "deepspeed": deepspeed().__version__}
    result |= {"config": config, name: [*result.get(name, []), part]}
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
