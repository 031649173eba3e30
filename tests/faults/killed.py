"""Run by test_kills.py: trains in forked children that are killed, and says what was found after each.

The parent trains a few steps first, so that a child finds all modules and kernels loaded and begins at once. It has no
threads of its own, and so may fork.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from steepest.train import session, trainer
from steepest.train.config import RunConfig, apply_overrides
from steepest.train.run_folder import RunFolder

EVERY = 10


def child(work: Callable[[], object]) -> int:
    """Do the work in a process of its own; return its number."""
    number = os.fork()
    if number == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return number


def finished(number: int) -> int:
    """Wait for a child; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def reached(run: Path) -> int:
    """The last step in the metrics, whole lines only."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def states(path: Path) -> dict[str, str]:
    """Checksums of a checkpoint's tensors."""
    names = ("model.safetensors", "optimizer.safetensors")
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names}


def newest(run: Path) -> int:
    """Step of the newest checkpoint; none may be damaged."""
    path, told = RunFolder.open(run).checkpoints().newest_intact()
    assert not told, told
    return int(path.name[5:])


def kill_training(folder: Path, config: RunConfig, kills: int, seed: int) -> dict[str, object]:
    """SIGKILL at random moments; then an undisturbed run of as many steps has the same bits."""
    dice, run, lost = random.Random(seed), folder / "killed", []
    begin = apply_overrides(config, ["train.steps=1000000"])
    first = child(lambda: session.start(begin, out=run, quiet=True, pages=False))
    for index in range(kills):
        number = child(lambda: session.resume(run, quiet=True, pages=False)) if index else first
        # What was logged after the checkpoint stands until the child is under way: some kills find it beginning.
        goal = (newest(run) if index else EVERY) + dice.randint(1, 2 * EVERY + 5)
        while reached(run) < goal:
            done, status = os.waitpid(number, os.WNOHANG)
            assert done == 0, f"the run ended by itself with {status}"
            time.sleep(0.002)
        time.sleep(dice.random() * 0.01)
        os.kill(number, signal.SIGKILL)
        assert finished(number) == -signal.SIGKILL
        lost.append(reached(run) - newest(run))
    steps = newest(run) + EVERY
    rest = [f"train.steps={steps}"]
    assert finished(child(lambda: session.resume(run, overrides=rest, quiet=True, pages=False))) == 0
    whole = apply_overrides(config, rest)
    assert finished(child(lambda: session.start(whole, out=folder / "whole", quiet=True, pages=False))) == 0
    name = f"step_{steps:08d}"
    same = states(run / "checkpoints" / name) == states(folder / "whole" / "checkpoints" / name)
    return {"kills": kills, "steps": steps, "most_lost": max(lost), "same": same}


def kill_in_save(run: Path, at: int) -> bool:
    """Resume, and die at the `at`-th file operation of the next checkpoint; whether it came to that."""
    save = trainer.Trainer.save

    def dying(self: trainer.Trainer) -> None:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event == "open" or event.startswith(("os.", "shutil.")):
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        save(self)
        os._exit(0)

    def work() -> None:
        trainer.Trainer.save = dying  # pyright: ignore[reportAttributeAccessIssue]
        session.resume(run, quiet=True, pages=False)

    status = finished(child(work))
    assert status in (0, -signal.SIGKILL), status
    return status == -signal.SIGKILL


def kill_checkpoints(folder: Path, config: RunConfig, stride: int) -> dict[str, object]:
    """SIGKILL at file operations of a checkpoint, one after another: the old state or the new one is there, whole."""
    steps = [f"train.steps={4 * EVERY}"]
    whole = apply_overrides(config, [*steps, "train.keep_last=9"])
    assert finished(child(lambda: session.start(whole, out=folder / "whole", quiet=True, pages=False))) == 0
    expected = {path.name: states(path) for path in (folder / "whole" / "checkpoints").iterdir()}
    begun = folder / "begun"
    shutil.copytree(folder / "whole", begun)
    for path in (begun / "checkpoints").iterdir():
        if int(path.name[5:]) > 2 * EVERY:
            shutil.rmtree(path)
    found: dict[int, int] = {}
    at, kills = 1, 0
    while True:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(begun, run)
        if not kill_in_save(run, at):
            break
        kills += 1
        path, told = RunFolder.open(run).checkpoints().newest_intact()
        assert not told, told
        assert states(path) == expected[path.name], f"killed at operation {at}"
        step = int(path.name[5:])
        found[step] = found.get(step, 0) + 1
        if kills % 5 == 1:
            assert finished(child(lambda run=run: session.resume(run, quiet=True, pages=False))) == 0
            assert states(run / "checkpoints" / f"step_{4 * EVERY:08d}") == expected[f"step_{4 * EVERY:08d}"]
            assert not list(run.rglob(".incomplete-*"))
        at += stride
    return {"kills": kills, "operations": at, "found": found}


def main() -> None:
    what, folder, number, seed, *overrides = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    config = apply_overrides(
        RunConfig(), [*overrides, "train.schedule=constant", "train.eval_every=0", f"train.checkpoint_every={EVERY}"]
    )
    session.start(apply_overrides(config, ["train.steps=2"]), out=Path(folder) / "first", quiet=True, pages=False)
    if what == "training":
        found = kill_training(Path(folder), config, int(number), int(seed))
    else:
        found = kill_checkpoints(Path(folder), config, int(number))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
