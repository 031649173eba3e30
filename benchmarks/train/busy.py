# SPDX-License-Identifier: Apache-2.0
"""The default training run beside a program that wants a processor, by how long waiting threads spin.

Run `python -m benchmarks.train.busy` from the repository's root, on an idle machine: it brings its own competitor, one
endless loop. Ways: libgomp's own rule; 1000 rounds of its loop before a thread sleeps; none; and `steepest train` as it
decides for itself (which looks at the load of the last minute, so the competitor starts a minute before).
"""

import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steepest.cli._sharing import SETTINGS
from steepest.train.machine import describe_for_record

RESULTS = Path(__file__).parents[1] / "results"
#: A value that no rule of ours touches: 300,000 rounds are what libgomp takes by itself.
WAYS = {"libgomp's own": "300000", "1000 rounds": "1000", "sleep at once": "0", "as it decides": None}
ROUNDS, SECONDS, SKIPPED = 2, {"alone": 22, "beside an endless loop": 35}, 2


def speed(way: str, seconds: float) -> float:
    """Return the median of the tokens a second of one run, without its first rows."""
    environment = {name: value for name, value in os.environ.items() if name not in {*SETTINGS, "OMP_NUM_THREADS"}}
    if WAYS[way] is not None:
        environment["GOMP_SPINCOUNT"] = str(WAYS[way])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        process = subprocess.Popen(
            [sys.executable, "-m", "steepest", "train", "--out", str(out)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        process.wait()
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([row["tokens_per_second"] for row in rows if row["kind"] == "train"][SKIPPED:])


def main() -> None:
    """Measure all ways in turn, alone and beside the competitor, and save."""
    found: dict[str, dict[str, list[float]]] = {}
    for beside, seconds in SECONDS.items():
        competitor = None
        if beside != "alone":
            competitor = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            time.sleep(60)
        found[beside] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, speeds in found[beside].items():
                speeds.append(speed(way, seconds))
                print(f"{beside}, {way}: {speeds[-1]:,.0f} tokens a second", flush=True)
        if competitor is not None:
            competitor.kill()
    day = datetime.datetime.now(tz=datetime.UTC).date()
    about = {"date": str(day), "machine": describe_for_record(), "seconds_of_a_run": SECONDS}
    record = about | {"tokens_per_second": found}
    path = RESULTS / f"train_busy_{day}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
