"""Hostile files: valid ones with their bytes and values changed, for every parser that reads what users bring.

`python -m tests.faults.fuzz PARSER COUNT SEED` runs one in a process with bounded memory, and prints what was found.
"""

import contextlib
import json
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from steepest.nn import Llama, load_llama, preset, save_llama
from steepest.optim import AdamW
from steepest.optim.spec import Spec
from steepest.train import checkpoint, files
from steepest.train.checkpoint import Checkpoints, Progress
from steepest.train.config import RunConfig, apply_overrides, read_config, to_dict, to_toml
from steepest.train.data import BPETokenizer, ByteTokenizer, iter_documents, load_tokenizer
from steepest.train.report.metrics import read_metrics
from steepest.train.report.run import read_run
from steepest.train.run_folder import FORMAT, RunFolder

#: Seconds of a processor that one file may take.
LONGEST = 20
VALUES = (
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"1" + b"0" * 400,
    b'""',
    b"[]",
    b"{}",
    b"true",
    b'"\\ud800"',
    b"NaN",
    b"-0.0",
)
VALUES += (b"[" * 2000, b'{"a":' * 500, b"../../../etc/passwd", b"<script>", b"\0", b"\xff\xfe", b"9" * 30, b"1e-400")


def changed(original: bytes, dice: random.Random) -> bytes:
    """Change a few things: bits, bytes, stretches, tokens."""
    content = bytearray(original)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
        kind = dice.randrange(8)
        at = dice.randrange(len(content) + 1)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            del content[at : at + dice.randrange(1, 20)]
        elif kind == 3:
            content[at:at] = dice.randbytes(dice.randrange(1, 12))
        elif kind == 4:
            part = content[at : at + dice.randrange(1, 60)]
            content[at:at] = part * dice.choice((1, 2, 40))
        elif kind == 5:
            content[at:at] = dice.choice(VALUES)
        elif kind == 6:
            stop = at
            while stop < len(content) and content[stop] not in b",:]}\n=":
                stop += 1
            content[at:stop] = dice.choice(VALUES)
        elif content:
            content[at % len(content)] = dice.choice(b'"[]{},:\\\n 0e-=#.')
    return bytes(content)


class Target:
    """A parser, a folder with a valid file, and how it is read."""

    def __init__(self, folder: Path, name: str, read: Callable[[], object]) -> None:
        self.path, self.read = folder / name, read
        self.original = self.path.read_bytes()


def tokenizer_of_bytes(folder: Path) -> Target:
    ByteTokenizer().save(folder)
    return Target(folder, "tokenizer.json", lambda: load_tokenizer(folder).encode(b"some text"))


def tokenizer_bpe(folder: Path) -> Target:
    BPETokenizer.train([b"the cat sat on the mat, the cat sat"] * 9, 262).save(folder)
    return Target(folder, "tokenizer.json", lambda: load_tokenizer(folder).encode(b"the cat sat on"))


def toml(folder: Path) -> Target:
    (folder / "run.toml").write_text(to_toml(RunConfig()))
    return Target(folder, "run.toml", lambda: read_config(folder / "run.toml"))


def run_config(folder: Path) -> Target:
    files.write_json(folder / "environment.json", {"run_format": FORMAT})
    files.write_json(folder / "config.json", to_dict(RunConfig()))
    return Target(folder, "config.json", lambda: RunFolder.open(folder).config())


def environment(folder: Path) -> Target:
    files.write_json(folder / "config.json", to_dict(RunConfig()))
    files.write_json(folder / "environment.json", {"run_format": FORMAT, "steepest": "0.1", "threads": 2})
    return Target(folder, "environment.json", lambda: RunFolder.open(folder))


def metrics(folder: Path) -> Target:
    rows = [
        {"kind": kind, "step": i, "tokens": i, "seconds": 0.5, "loss": 2.0}
        for i in (1, 2)
        for kind in ("train", "eval")
    ]
    rows = [{**row, "bits_per_byte": 3.0} for row in rows]
    rows.append({**rows[0], "kind": "layers", "step": 3, "layers": {"a": {"update_rms": 0.1}}})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return Target(folder, "metrics.jsonl", lambda: read_metrics(folder))


def summary(folder: Path) -> Target:
    metrics(folder)
    files.write_json(folder / "summary.json", {"status": "finished", "bits_per_byte": 1.5, "baselines": {"xz": 2.0}})

    def read() -> object:
        run = read_run(folder)
        return run.status, run.bits_per_byte, run.baselines

    return Target(folder, "summary.json", read)


def small_model() -> Llama:
    return Llama(preset("nano", width=8, layers=1, heads=2, vocab_size=16, context=8))


def model_config(folder: Path) -> Target:
    save_llama(small_model(), folder)
    return Target(folder, "config.json", lambda: load_llama(folder))


def weights(folder: Path) -> Target:
    save_llama(small_model(), folder)
    return Target(folder, "model.safetensors", lambda: load_llama(folder))


def manifest(folder: Path) -> Target:
    with files.complete_folder(folder / "step_00000001") as inner:
        (inner / "weights").write_bytes(b"weights")
    path = folder / "step_00000001"
    return Target(path, files.MANIFEST, lambda: Checkpoints(folder).newest_intact())


def written_checkpoint(folder: Path) -> Callable[[], object]:
    model = small_model()
    optimizer = AdamW(model)
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    checkpoint.save(folder / "step", model, [optimizer], Progress(step=1))

    def read() -> object:
        other = small_model()
        return checkpoint.load(folder / "step", other, [AdamW(other)])

    return read


def state(folder: Path) -> Target:
    """A checkpoint by somebody who makes the checksums right."""
    read = written_checkpoint(folder)
    return Target(folder / "step", "state.json", read)


def optimizer_states(folder: Path) -> Target:
    read = written_checkpoint(folder)
    return Target(folder / "step", "optimizer.safetensors", read)


def shards(folder: Path) -> Target:
    """The index of a sharded checkpoint."""
    from torch.distributed import checkpoint as sharded

    from steepest.train.sharded_reading import read_shards

    value = {"model": {"weight": torch.ones(4, 3)}, "step": 3}
    sharded.save(value, checkpoint_id=folder / "shards")

    def read() -> None:
        read_shards(folder / "shards", {"model": {"weight": torch.zeros(4, 3)}, "step": 0})

    return Target(folder / "shards", ".metadata", read)


def text_of_an_optimizer(folder: Path) -> Target:
    path = folder / "spec"
    path.write_text("steepest:norm=schatten4:lr=0.02 state_dtype=8bit momentum=0.9 mode=dual-scaled")

    def read() -> object:
        matrix = nn.Parameter(torch.zeros(2, 2))
        return Spec.parse(path.read_bytes().decode("latin-1")).build([matrix])

    return Target(folder, "spec", read)


def overrides(folder: Path) -> Target:
    path = folder / "set"
    path.write_text('optim.lr=3e-3\ntrain.steps=500\ndata.paths=["a","b"]\noptim.betas=[0.9,0.95]')
    return Target(folder, "set", lambda: apply_overrides(RunConfig(), path.read_bytes().decode("latin-1").split("\n")))


def json_lines(folder: Path) -> Target:
    (folder / "a.jsonl").write_text('{"text": "once upon a time"}\n{"text": "there was"}\n' * 3)
    return Target(folder, "a.jsonl", lambda: list(iter_documents([str(folder / "a.jsonl")], column="text")))


def parquet(folder: Path) -> Target:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["once upon a time", "there was"] * 4}), folder / "a.parquet")
    return Target(folder, "a.parquet", lambda: list(iter_documents([str(folder / "a.parquet")], column="text")))


def gzip(folder: Path) -> Target:
    import gzip as library

    (folder / "a.txt.gz").write_bytes(library.compress(b"once upon a time there was " * 9))
    return Target(folder, "a.txt.gz", lambda: list(iter_documents([str(folder / "a.txt.gz")])))


TARGETS: dict[str, Callable[[Path], Target]] = {
    maker.__name__: maker
    for maker in (
        tokenizer_of_bytes,
        tokenizer_bpe,
        toml,
        run_config,
        environment,
        metrics,
        summary,
        model_config,
        weights,
        manifest,
        state,
        optimizer_states,
        shards,
        text_of_an_optimizer,
        overrides,
        json_lines,
        parquet,
        gzip,
    )
}


class Hang(BaseException):
    """A file took longer than it may."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def is_clear(error: Exception) -> bool:
    """What the command line prints as one line: a user's mistake, in words of ours (no decoder's or parser's own)."""
    bare = isinstance(error, UnicodeError | json.JSONDecodeError | pickle.UnpicklingError)
    return isinstance(error, ValueError | OSError) and not bare and len(str(error)) > 15


def fuzz(name: str, count: int, seed: int) -> dict[str, object]:
    """Read changed files; return how many were taken, refused clearly, and otherwise."""
    dice = random.Random(f"{name} {seed}")
    folder = Path(tempfile.mkdtemp())
    unclear: Counter[str] = Counter()
    examples: dict[str, str] = {}
    taken = refused = 0
    try:
        target = TARGETS[name](folder)
        target.read()
        for _ in range(count):
            content = changed(target.original, dice)
            target.path.write_bytes(content)
            try:
                with bounded(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    target.read()
                taken += 1
            except Exception as error:
                if is_clear(error):
                    refused += 1
                    continue
                kind = f"{type(error).__name__}: {str(error)[:100]}"
                unclear[kind] += 1
                examples.setdefault(kind, repr(content[:300]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"taken": taken, "refused": refused, "unclear": dict(unclear.most_common(8)), "examples": examples}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    torch.set_num_threads(1)
    name, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for each in TARGETS if name == "all" else name.split(","):
        found = fuzz(each, count, seed)
        sys.stdout.write(json.dumps({"parser": each, **found}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
