"""Run by test_sharded_runs.py in two processes: whole sharded runs, with and without a disk.

`torchrun -m tests.train.offload.sharded_runs JOBS`: JOBS is a JSON list of `[what, out, settings, offload]`, with
`what` either `start` or `resume`; all runs share one process group.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from steepest.train.session import resume, start
from tests.train.runs import configured


def main(jobs: list) -> None:
    dist.init_process_group("gloo")
    begin, end = dist.init_process_group, dist.destroy_process_group
    dist.init_process_group = lambda *_: None

    def only_own(group=None) -> None:
        if group is not None:
            end(group)

    dist.destroy_process_group = only_own
    for what, out, settings, offload in jobs:
        more = {"shard": True, "offload": Path(offload) if offload else None, "quiet": True, "pages": False}
        if what == "start":
            start(configured(settings), out=Path(out), **more)
        else:
            resume(Path(out), overrides=settings, **more)
    dist.init_process_group, dist.destroy_process_group = begin, end
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
