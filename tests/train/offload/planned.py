"""A planned run for others to measure.

`python -m tests.train.offload.planned TEXT FOLDER WAY KEEP RECOMPUTE SWAP` trains a small model with all of it where
it is told, writes what was predicted as JSON, and waits for a line.
"""

import json
import sys
from pathlib import Path

from steepest.train import planned
from steepest.train.config import RunConfig, apply_overrides
from steepest.train.offload import Choice, Facts, Plan
from steepest.train.offload.plan import plan_of
from steepest.train.session import start

SETTINGS = [
    "data.tokenizer=bytes",
    "model.width=256",
    "model.layers=6",
    "model.heads=4",
    "model.context=128",
    "optim.name=adamw",
    "train.steps=2",
    "train.batch=8",
    "train.threads=1",
    "train.precision=float32",
    "train.eval_tokens=2048",
    "train.baselines=false",
    "train.sample_tokens=0",
]


def forced(choice: Choice):
    """The planner's choice in place of the fastest."""

    def choose(facts: Facts, limit: int) -> Plan:
        return plan_of(facts, choice, limit)

    return choose


def main(text: str, folder: Path, way: str, *places: str) -> None:
    planned.choose = forced(Choice(way, *map(int, places)))  # pyright: ignore[reportArgumentType, reportCallIssue]
    config = apply_overrides(RunConfig(), [*SETTINGS, f'data.paths=["{text}"]', f"data.cache={folder / 'cache'}"])
    within = planned.Within(limit=1, folder=folder / "states")
    run = start(config, out=folder / "run", offload=within, quiet=True, pages=False)
    plan = json.loads((run.path / "summary.json").read_text())["plan"]
    rows = {row["what"]: row["memory"] for row in plan["where"]}
    found = {"predicted": plan["predicted_peak_bytes"], "baseline": rows["the process itself"]}
    sys.stdout.write(json.dumps(found | {"buffers": rows.get("buffers", 0)}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
