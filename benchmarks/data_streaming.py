# SPDX-License-Identifier: Apache-2.0
"""Prepare a 1 GB text file and measure the peak memory and the speed of reading and tokenizing it.

Each preparation runs in a child process of its own, and the peak is the kernel's count of the child's resident memory
(`ru_maxrss`), beside what it is after the imports alone. Pages of the mapped files count too, though the kernel can
take them back.

Usage: python benchmarks/data_streaming.py [--megabytes 1000] [--out benchmarks/results/data_streaming_X_DATE.json]
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, resource, sys, time
from steepest.train.data import DataConfig, prepare
import tokenizers
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base, start = peak(), time.perf_counter()
cpu = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
data = prepare(DataConfig(paths=(sys.argv[1],), cache=sys.argv[2], tokenizer=sys.argv[3]), progress=False)
print(json.dumps({
    "seconds": time.perf_counter() - start, "cpu_seconds": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - cpu,
    "imports_mb": base, "peak_mb": peak(), "train_tokens": len(data.train), "val_tokens": len(data.val),
    "bytes": data.train_bytes + data.val_bytes, "bytes_per_token": data.bytes_per_token,
}))
"""


def write_text(path: Path, size: int) -> None:
    """Shuffle the sentences of the shipped corpus until the file is large enough (seeded).

    Every sentence gets a new random word, about one of 30, because a real text of this size goes on bringing new words.
    """
    from steepest.train.data import iter_documents

    sentences = b" ".join(iter_documents()).split(b". ")
    chance = random.Random(0)
    with path.open("wb") as file:
        while file.tell() < size:
            chance.shuffle(sentences)
            file.write(b". ".join(sentence + b" " + new_word(chance) for sentence in sentences) + b".\n")


def new_word(chance: random.Random) -> bytes:
    """Eight random letters."""
    return bytes(chance.choices(range(ord("a"), ord("z") + 1), k=8))


def main() -> None:
    """Measure both tokenizers and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = {"hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"}
    result |= {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "large.txt")
        write_text(text, options.megabytes * 1_000_000)
        for tokenizer in ("bytes", "bpe"):
            command = [sys.executable, "-c", CHILD, str(text), str(Path(folder, "cache")), tokenizer]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured = json.loads(done.stdout)
            measured["mb_per_second"] = measured["bytes"] / 1e6 / measured["seconds"]
            result[tokenizer] = measured
            print(tokenizer, json.dumps(measured, indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
