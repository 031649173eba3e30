"""Kills one of two processes that train shards, or both, again and again; resumes, and compares what comes out.

`python -m tests.train.offload.killing_shards FOLDER KILLS SEED` writes one line a kill, as `killing` does.
"""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from steepest.optim import AdamW, Muon
from steepest.optim.sharding import local
from steepest.train.offload import Offload, OffloadOptions
from tests.train.offload.killing import child, die_at_write
from tests.train.offload.sharded import net, one_step

STEPS = 4
KINDS = [(AdamW, True), (AdamW, False), (Muon, True)]
Wound = Callable[[int], None]


def holds_a_step(folder: Path) -> bool:
    """Whether all processes have finished a commit."""
    journals = [folder / f"rank-{rank}-of-2" / "journal.jsonl" for rank in range(2)]
    return all(path.exists() and len(path.read_bytes().splitlines()) > 1 for path in journals)


def train(rank: int, meeting: Path, folder: Path, kind: int, wound: Wound | None = None) -> str:
    """Train from what the folder holds to the last step; return a digest of this process's weights and states."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    make, overlap = KINDS[kind]
    model = net()
    optimizer = make(model)
    resume = holds_a_step(folder)
    dist.barrier()
    if wound:
        wound(rank)
    options = OffloadOptions(tile_entries=4096, overlap=overlap)
    with Offload(optimizer, folder, options, resume=resume, overwrite=not resume) as offload:
        while offload.steps < STEPS:
            one_step(model, optimizer, offload.steps)
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(local(parameter.detach()).numpy().tobytes())
        for state in optimizer.state_dict()["state"].values():
            for value in state.values():
                here = local(value) if isinstance(value, torch.Tensor) else value
                digest.update(here.numpy().tobytes() if isinstance(here, torch.Tensor) else repr(here).encode())
    dist.destroy_process_group()
    return digest.hexdigest()


def both(folder: Path, kind: int, *, wound: Wound | None = None, after: float | None = None) -> tuple[bool, list[str]]:
    """Run two processes; once one has died, or after some time, kill what is left. Return if one died, and answers."""
    meeting = folder.parent / f"{folder.name}.meeting"
    meeting.unlink(missing_ok=True)
    began = time.monotonic()
    pids = dict(child(lambda rank=rank: train(rank, meeting, folder, kind, wound)) for rank in range(2))
    left, killed = set(pids), False
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in left:
            left.remove(pid)
            killed |= os.WIFSIGNALED(status)
        if status or (after is not None and time.monotonic() > began + after):
            for other in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
        time.sleep(0.002)
    answers = []
    for read in pids.values():
        with os.fdopen(read) as stream:
            answers.append(stream.read())
    return killed, answers


def counted(folder: Path, kind: int) -> tuple[list[str], int, float]:
    """Return the digests of a run that is left alone, how many writes a process makes, and how long it takes."""

    def count(rank: int) -> None:
        real = os.pwrite

        def pwrite(*arguments) -> int:
            with (folder.parent / f"{folder.name}.{rank}").open("ab") as file:
                file.write(b"x")
            return real(*arguments)

        os.pwrite = pwrite

    began = time.monotonic()
    _, digests = both(folder, kind, wound=count)
    sizes = [(folder.parent / f"{folder.name}.{rank}").stat().st_size for rank in range(2)]
    return digests, min(sizes), time.monotonic() - began


def main(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    whole = [counted(folder / f"whole{kind}", kind) for kind in range(len(KINDS))]
    for number in range(kills):
        kind, here = number % len(KINDS), folder / f"killed{number}"
        digests, writes, seconds = whole[kind]
        if number % 4 == 3:
            wait = rng.uniform(0.2, 1) * seconds
            killed, _ = both(here, kind, after=wait)
            where = f"both after {wait:.3f} s"
        else:
            victim, at, part = rng.randrange(2), rng.randrange(1, writes + 1), rng.random()

            def wound(rank: int, victim=victim, at=at, part=part) -> None:
                if rank == victim:
                    die_at_write(at, part)

            killed, _ = both(here, kind, wound=wound)
            where = f"process {victim} {part:.0%} into write {at} of {writes}"
        _, found = both(here, kind)
        verdict = "same bytes" if found == digests and all(digests) else "OTHER BYTES"
        sys.stdout.write(f"{KINDS[kind][0].__name__}, {'killed' if killed else 'done'} {where}: {verdict}\n")
        sys.stdout.flush()
        shutil.rmtree(here, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
