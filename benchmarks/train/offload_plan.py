# SPDX-License-Identifier: Apache-2.0
"""What the planner predicts beside what is measured: seconds of a step and peak memory, on configurations that differ.

    python -m benchmarks.train.offload_plan --save benchmarks/results

Fixed before the run: the cases below (sizes, optimizers, ways to keep states and gradients, places for activations,
threads), float32, Llamas with a vocabulary of 256 and 128 tokens of context, the bar of 25 % for the seconds. Each case
is a process of its own: it plans, from two blocks of its model and the disk of `--folder`, then takes the steps as
`steepest train` does, one after another as in training, and reports their median without the first two. Peak memory is
the most that the system saw of the process.
"""

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.train.offload import named
from steepest.train import machine
from steepest.train.config import RunConfig, apply_overrides
from steepest.train.memory import memory_given_back
from steepest.train.offload import Choice, Offload, gather_facts
from steepest.train.offload.cost import Way
from steepest.train.offload.plan import plan_of
from steepest.train.optimizers import build_optimizers
from steepest.train.planned import Placement, place_blocks, resolved

STEPS, BAR = 7, 0.25


class Case(NamedTuple):
    """A model, an optimizer, a way, and how many blocks keep, compute again and swap their activations."""

    width: int
    layers: int
    batch: int
    optimizer: str
    way: Way
    places: tuple[int, int, int]
    threads: int
    clip: float = 1.0


CASES = {
    "memory, computed again": Case(768, 6, 2, "adamw", "memory", (0, 6, 0), 2),
    "after backward": Case(1024, 4, 1, "adamw", "pipelined", (4, 0, 0), 1),
    "during backward": Case(1024, 4, 2, "adamw", "overlapped", (4, 0, 0), 1, 0.0),
    "gradients on disk": Case(1024, 4, 1, "adamw", "gradients on disk", (4, 0, 0), 1),
    "Muon, gradients on disk": Case(512, 6, 4, "muon", "gradients on disk", (3, 3, 0), 2),
    "SinkGD, during backward": Case(768, 6, 2, "sinkgd", "overlapped", (6, 0, 0), 2, 0.0),
    "activations on disk": Case(512, 6, 8, "adamw", "pipelined", (2, 0, 4), 1),
}


def configured(case: Case) -> RunConfig:
    heads = case.width // 64
    return resolved(
        apply_overrides(
            RunConfig(),
            [
                "data.tokenizer=bytes",
                f"model.width={case.width}",
                f"model.layers={case.layers}",
                f"model.heads={heads}",
                "model.context=128",
                f"optim.name={case.optimizer}",
                f"train.batch={case.batch}",
                f"train.clip={case.clip}",
                f"train.threads={case.threads}",
                "train.precision=float32",
            ],
        )
    )


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Plan and train one case in this process."""
    config = configured(case)
    start = time.perf_counter()
    facts = gather_facts(config, folder)
    planning = time.perf_counter() - start
    plan = plan_of(facts, Choice(case.way, *case.places), 0)
    placement = Placement(folder, plan)
    model = config.model.build(torch.Generator().manual_seed(0))
    (optimizer,) = build_optimizers(model, config.optim)
    ids = torch.randint(256, (STEPS, case.batch, 129), generator=torch.Generator().manual_seed(1))
    seconds: list[dict[str, float]] = []
    with ExitStack() as stack:
        stack.enter_context(memory_given_back())
        options = placement.options(config)
        offload = stack.enter_context(Offload(optimizer, folder / "states", options)) if options else None  # pyright: ignore[reportArgumentType]
        place_blocks(model, placement, stack)
        for batch in ids:
            start = time.perf_counter()
            loss = model(batch[:, :-1], targets=batch[:, 1:]).mean()
            loss.item()
            middle = time.perf_counter()
            loss.backward()
            late = time.perf_counter()
            if offload:
                offload.total_norm(model.parameters()).item()
            else:
                torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
            end = time.perf_counter()
            seconds.append({"forward": middle - start, "backward": late - middle, "optimizer": end - late})
    measured = statistics.median(sum(step.values()) for step in seconds[2:])
    parts = {part: statistics.median(step[part] for step in seconds[2:]) for part in seconds[0]}
    return {
        "case": case._asdict(),
        "parameters": facts.parameters,
        "predicted_seconds": plan.seconds,
        "predicted_parts": plan.parts,
        "measured_seconds": measured,
        "measured_parts": parts,
        "all_seconds": seconds,
        "error": plan.seconds / measured - 1,
        "predicted_peak_bytes": plan.peak,
        "measured_peak_bytes": machine.peak_rss(),
        "planning_seconds": planning,
        "disk_bytes_per_second": dataclasses.asdict(facts.disk),
        "cost": dataclasses.asdict(facts.cost),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--case", default=None, help="Run one in this process and print its numbers.")
    parser.add_argument("--save", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.case:
            print(json.dumps(run(CASES[arguments.case], Path(folder))))
            return
        found: dict[str, Any] = {}
        for name in CASES:
            command = [sys.executable, "-m", "benchmarks.train.offload_plan", "--case", name, "--folder", folder]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ)).stdout
            row = found[name] = json.loads(out)
            print(
                f"{name:24} {row['predicted_seconds']:.3f} s predicted, {row['measured_seconds']:.3f} s measured "
                f"({row['error']:+.0%}); {row['predicted_peak_bytes'] / 1e6:.0f} MB predicted, "
                f"{row['measured_peak_bytes'] / 1e6:.0f} MB measured; planned in {row['planning_seconds']:.1f} s",
                flush=True,
            )
    if arguments.save:
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": machine.describe_for_record(),
            "steps": STEPS,
            "bar": BAR,
            "within_the_bar": sum(abs(row["error"]) <= BAR for row in found.values()),
            "cases": found,
        }
        (arguments.save / named("offload_plan", result)).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
