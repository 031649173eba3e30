"""Run by test_sharded_runs.py in two processes: whole sharded runs, with and without a disk.

`torchrun -m tests.train.offload.sharded_runs JOBS`: JOBS is a JSON list of `[what, out, settings, offload]`, with
`what` either `start` or `resume`. Each run joins its peers anew.
"""

import json
import sys
from pathlib import Path

from steepest.cli._leaving import leaving_at_once
from steepest.train.session import resume, start
from tests.train.runs import configured


def main(jobs: list) -> None:
    for what, out, settings, offload in jobs:
        more = {"shard": True, "offload": Path(offload) if offload else None, "quiet": True, "pages": False}
        if what == "start":
            start(configured(settings), out=Path(out), **more)
        else:
            resume(Path(out), overrides=settings, **more)


if __name__ == "__main__":
    with leaving_at_once():
        sys.exit(main(json.loads(sys.argv[1])))
