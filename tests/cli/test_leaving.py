"""A process of torchrun ends with its status, what it printed, and its exit functions; others as ever."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from steepest.cli._leaving import leaving_at_once

class Late:
    def __del__(self):
        sys.stdout.write("taken apart\\n")

late = Late()
atexit.register(sys.stdout.write, "exit function\\n")
threading.Thread(target=lambda: (time.sleep(0.2), sys.stdout.write("thread\\n"))).start()
with leaving_at_once():
    sys.exit(CODE)
"""


def end(code: str, *, torchrun: bool) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    if torchrun:
        environment["TORCHELASTIC_RUN_ID"] = "1"
    command = [sys.executable, "-c", PROGRAM.replace("CODE", code)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize(
    ("code", "status", "errors"), [("0", 0, ""), ("None", 0, ""), ("3", 3, ""), ("'no'", 1, "no\n")]
)
def test_status_and_output_are_those_of_an_end_as_ever(code, status, errors):
    ever, now = end(code, torchrun=False), end(code, torchrun=True)
    assert ever.returncode == now.returncode == status
    assert ever.stderr == now.stderr == errors
    assert now.stdout == "thread\nexit function\n"
    assert ever.stdout == now.stdout + "taken apart\n"


def test_commands_end_that_way():
    """The status of a wrong command and the one line about it arrive."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TORCHELASTIC_RUN_ID": "1"}
    command = [sys.executable, "-m", "steepest", "train", "--optim", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "nothing" in done.stderr
