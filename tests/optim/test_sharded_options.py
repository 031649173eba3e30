import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.distributed
def test_sharded_parameters_move_as_whole_ones_under_every_option():
    """Lengths, counts and decisions are those of the whole tensor, not of a process's part."""
    script = Path(__file__).with_name("sharded_options.py")
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([*launch, str(script)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("all equal") == 2
