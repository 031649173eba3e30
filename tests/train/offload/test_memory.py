"""How much memory it takes, seen from outside, and what fits under a limit that the system enforces."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


class Trainee:
    """A process that trains, under a limit of its data if one is given."""

    def __init__(self, *arguments: object, limit: int | None = None) -> None:
        def restrict() -> None:
            if limit:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.train.offload.limited", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=restrict,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def bytes_of(self, entry: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{entry}:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found.group(1)) * 1024

    def run(self) -> tuple[str, int, int]:
        """Train to the end; return the loss, what was there before, and the most that ever was."""
        assert self.line() == "ready"
        before = self.bytes_of("VmRSS")
        self.go_on()
        loss = self.line()
        most = self.bytes_of("VmHWM") if loss else 0
        if loss:
            self.go_on()
        _, self.errors = self.process.communicate()
        return loss, before, most


@pytest.mark.parametrize(("layers", "width"), [(36, 1024), pytest.param(48, 1536, marks=pytest.mark.slow)])
def test_beyond_weights_and_activations_it_takes_less_than_a_third_of_the_states(tmp_path, layers, width):
    state_bytes = 8 * layers * width * width
    loss, before, most = Trainee("disk", layers, width, tmp_path).run()
    assert loss
    assert most - before < 0.35 * state_bytes
    in_memory, before, most = Trainee("memory", layers, width).run()
    assert in_memory == loss
    assert most - before > state_bytes  # what is measured sees the states where they are in memory


@pytest.mark.slow
def test_a_model_that_needs_twice_the_limit_trains_under_it_to_the_same_loss(tmp_path):
    layers, width, limit = 72, 1536, 1_400_000_000
    loss, _, most = Trainee("memory", layers, width).run()
    assert most >= 2 * limit
    failed = Trainee("memory", layers, width, limit=limit)
    assert failed.run()[0] == ""
    assert re.search("memory", failed.errors)
    limited = Trainee("disk", layers, width, tmp_path, limit=limit)
    assert limited.run()[0] == loss, limited.errors


def test_weights_that_are_larger_than_what_is_granted_train_to_the_same_loss(tmp_path):
    layers, width, granted = 40, 1024, 100_000_000
    assert 4 * layers * width * width > 1.6 * granted
    empty = Trainee("memory", 1, 8)  # what Python and torch take before there is a model
    assert empty.line() == "ready"
    limit = empty.bytes_of("VmData") + granted
    empty.process.kill()
    empty.process.communicate()
    loss, _, _ = Trainee("memory", layers, width).run()
    refused, errors = Trainee("memory", layers, width, limit=limit).process.communicate("\n\n")
    assert "0x" not in refused
    assert re.search("memory", errors)
    written = Trainee("write", layers, width, tmp_path)
    written.process.communicate()
    limited = Trainee("streamed", layers, width, tmp_path, limit=limit)
    assert limited.run()[0] == loss, limited.errors
