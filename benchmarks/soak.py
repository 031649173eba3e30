# SPDX-License-Identifier: Apache-2.0
"""A long run with evaluations, checkpoints and `report --follow` beside it: does memory grow, do files stay open?

    python -m benchmarks.soak --minutes 60 --save

Both processes are looked at every second. Growth is the slope of a line through the resident memory after the first
quarter, times the time looked at; it counts where it is beyond three standard deviations about the line and 4 MiB. At
the end the run is stopped by SIGTERM, and an undisturbed run of as many steps must have the same bits.
"""

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.torch import load_file

from steepest.train import machine

RESULTS = Path(__file__).parent / "results"
SETTINGS = [
    "model.width=64",
    "model.layers=2",
    "model.heads=2",
    "model.context=64",
    "data.tokenizer=bytes",
    "train.batch=8",
    "train.warmup=10",
    "train.schedule=constant",
    "train.precision=float32",
    "train.threads=1",
    "train.eval_every=100",
    "train.eval_tokens=4096",
    "train.checkpoint_every=50",
    "train.baselines=false",
    "train.sample_tokens=0",
    "train.log_every=1",
    "train.diagnose_every=50",
]
ALLOWED = 4 << 20


def steepest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "steepest", *arguments]


def train(run: Path, steps: int) -> list[str]:
    flags = [part for setting in (*SETTINGS, f"train.steps={steps}") for part in ("--set", setting)]
    return steepest("train", "--out", str(run), "--quiet", *flags)


def look(process: psutil.Process) -> tuple[int, int]:
    """Resident bytes and open files of a process."""
    return process.memory_info().rss, process.num_fds()


def verdict(samples: list[tuple[float, int, int]]) -> dict[str, Any]:
    """What the samples (seconds, bytes, files) say."""
    time_, memory, files = np.array(samples, dtype=np.float64)[len(samples) // 4 :].T
    slope, offset = np.polyfit(time_, memory, 1)
    noise = float(np.std(memory - (slope * time_ + offset)))
    growth = float(slope * (time_[-1] - time_[0]))
    return {
        "seconds": float(time_[-1] - time_[0]),
        "rss_bytes": float(memory[-1]),
        "growth_bytes": growth,
        "noise_bytes": noise,
        "files": [int(files.min()), int(files.max())],
        "flat": growth <= max(3 * noise, ALLOWED) and bool(np.median(files[-20:]) <= np.median(files[:20])),
    }


def soak(folder: Path, seconds: float) -> dict[str, Any]:
    """Run, look, stop, and run again undisturbed."""
    run = folder / "soaked"
    training = subprocess.Popen(train(run, 10**9))
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.2)
    following = subprocess.Popen(
        steepest("report", str(run), "--follow", "--every", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    watched = {"train": psutil.Process(training.pid), "report": psutil.Process(following.pid)}
    samples: dict[str, list[tuple[float, int, int]]] = {name: [] for name in watched}
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        for name, process in watched.items():
            samples[name].append((time.monotonic() - start, *look(process)))
        time.sleep(1)
    following.terminate()
    training.send_signal(signal.SIGTERM)
    status = training.wait(timeout=300)
    following.wait(timeout=60)
    newest = max((run / "checkpoints").glob("step_*"))
    steps = int(newest.name[5:])
    subprocess.run(train(folder / "undisturbed", steps), check=True)
    other = folder / "undisturbed" / "checkpoints" / newest.name / "model.safetensors"
    one, two = load_file(newest / "model.safetensors"), load_file(other)
    return {
        "steps": steps,
        "status": status,
        "same_bits": one.keys() == two.keys() and all(bool((one[key] == two[key]).all()) for key in one),
        **{name: verdict(seen) for name, seen in samples.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--save", action="store_true", help="write the result beside the others")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), 60 * arguments.minutes)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = {"date": today, "minutes": arguments.minutes, "machine": machine.describe_for_record(), "result": found}
    print(json.dumps(found, indent=2))
    if arguments.save:
        (RESULTS / f"soak_{today}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
