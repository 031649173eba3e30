"""Our optimizers under DDP, ZeRO, FSDP2 with torch's checkpoints, and tensor parallelism, in several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

METHODS = ("muon", "shampoo", "sinkgd", "adamw")
#: The model has two matrices of 24 x 8 and two of 8 x 24, in float64.
ENTRIES, BYTES = 4 * 24 * 8, 8


def launched(processes: int) -> dict[str, dict[str, float]]:
    script = Path(__file__).with_name("parallel.py")
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc-per-node", str(processes), str(script)],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    return launched(2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["fsdp", "tp"])
def test_sharded_steps_equal_unsharded_ones(found, way, method):
    """Relative to the largest change of a weight over the run."""
    assert found[f"{way} {method}"]["difference"] < 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_torch_goes_on_to_the_same_bits(found, method):
    assert found[f"fsdp {method}"]["resumed"] == 1.0


def test_bytes_that_a_step_receives(found):
    """Of two processes. What is whole must bring the other half; SinkGD brings sums of lines, 2 (P - 1) / P of each."""
    whole = ENTRIES * BYTES / 2
    by_rows = 2 * 5 * (8 + 24) * BYTES  # five sums of as many numbers as there are columns
    by_both = 2 * (5 * 8 + 5 * 8 + 8) * BYTES  # columns of one, rows of the other and their largest entries
    assert found["fsdp adamw"]["bytes"] == found["tp adamw"]["bytes"] == 0
    assert found["fsdp muon"]["bytes"] == found["tp muon"]["bytes"] == whole
    assert found["fsdp shampoo"]["bytes"] == found["tp shampoo"]["bytes"] == whole
    assert found["fsdp sinkgd"]["bytes"] == by_rows
    assert found["tp sinkgd"]["bytes"] == by_both


@pytest.mark.parametrize("method", ["muon", "adamw"])
def test_copies_in_each_process(found, method):
    assert found[f"ddp {method}"]["difference"] < 1e-10
    zero = found[f"zero {method}"]
    assert zero["difference"] < 1e-10
    assert (zero["held"], zero["consolidated"]) == (2, 4)  # states of half the matrices here, of all in the checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_mesh_of_two_dimensions(method, request):
    """Tensor parallelism inside, sharding outside, in four processes."""
    cache = request.config.stash.setdefault(_FOUR, {})
    cache.update({} if cache else launched(4))
    assert cache[f"both {method}"]["difference"] < 1e-10


_FOUR: pytest.StashKey[dict[str, dict[str, float]]] = pytest.StashKey()
