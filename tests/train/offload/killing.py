"""Kills a training process again and again, resumes it each time, and compares what comes out.

`python -m tests.train.offload.killing FOLDER KILLS SEED` writes one line a kill: where it happened, and whether the
bytes are those of a run that was left alone. Each run is forked from this process, which has no threads.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from steepest.optim import AdamW, Muon
from steepest.train.offload import Offload, OffloadOptions
from tests.train.offload.test_offload import net, one_step

STEPS = 5
KINDS = [(AdamW, True), (AdamW, False), (Muon, True)]


def train(folder: Path, kind: int, *, pause: bool = False) -> str:
    """Train from what the folder holds to the last step; return a digest of weights and states."""
    torch.set_num_threads(1)
    make, overlap = KINDS[kind]
    model = net()
    optimizer = make(model)
    resume = (folder / "journal.jsonl").exists() and len((folder / "journal.jsonl").read_bytes().splitlines()) > 1
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    with Offload(optimizer, folder, OffloadOptions(tile_entries=1024, overlap=overlap), resume=resume) as offload:
        while offload.steps < STEPS:
            one_step(model, optimizer, offload.steps)
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        for state in optimizer.state_dict()["state"].values():
            for value in state.values():
                digest.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return digest.hexdigest()


def die_at_write(number: int, part: float) -> None:
    """Have this process kill itself inside the write of that number, when a part of the bytes is on its way."""
    real, calls = os.pwrite, 0

    def pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == number:
            real(descriptor, view[: int(len(view) * part) // 4096 * 4096], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, view, offset)

    os.pwrite = pwrite


def child(action) -> tuple[int, int]:
    """Run something in a fork; return its number and where its answer comes."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(write, action().encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    return pid, read


def ended(pid: int, read: int) -> tuple[int, str]:
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(read) as stream:
        return status, stream.read()


def writes_of(folder: Path, kind: int) -> int:
    """How many writes a whole run makes."""

    def count() -> str:
        real, calls = os.pwrite, []

        def pwrite(*arguments) -> int:
            calls.append(1)
            return real(*arguments)

        os.pwrite = pwrite
        train(folder, kind)
        return str(len(calls))

    return int(ended(*child(count))[1])


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    expected, writes, seconds = {}, {}, {}
    for kind in range(len(KINDS)):
        writes[kind] = writes_of(folder / f"count{kind}", kind)
        began = time.monotonic()
        expected[kind] = ended(*child(lambda kind=kind: train(folder / f"whole{kind}", kind)))[1]
        seconds[kind] = time.monotonic() - began
    for number in range(kills):
        kind, here = number % len(KINDS), folder / f"killed{number}"
        if number % 2:
            at, part = rng.randrange(1, writes[kind] + 1), rng.random()

            def action(kind=kind, here=here, at=at, part=part) -> str:
                die_at_write(at, part)
                return train(here, kind)

            status, _ = ended(*child(action))
            where = f"{part:.0%} into write {at} of {writes[kind]}"
        else:
            pid, read = child(lambda kind=kind, here=here: train(here, kind))
            wait = rng.uniform(0.02, seconds[kind])
            time.sleep(wait)
            os.kill(pid, signal.SIGKILL)
            status, _ = ended(pid, read)
            where = f"after {wait:.3f} s"
        killed = os.WIFSIGNALED(status)
        _, digest = ended(*child(lambda kind=kind, here=here: train(here, kind)))
        verdict = "same bytes" if digest == expected[kind] and digest else "OTHER BYTES"
        sys.stdout.write(f"{KINDS[kind][0].__name__}, {'killed' if killed else 'done'} {where}: {verdict}\n")
        sys.stdout.flush()
        shutil.rmtree(here, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
