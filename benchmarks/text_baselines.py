# SPDX-License-Identifier: Apache-2.0
"""Bits per byte of the default corpus's validation split under the baselines, with Witten-Bell beside Kneser-Ney.

Witten-Bell smoothing is here because it is the other usual choice for text models: the library keeps the better one.

Usage: python benchmarks/text_baselines.py [--out benchmarks/results/text_baselines_DATE.json]
"""

import argparse
import json
import math
import resource
from collections import Counter, defaultdict
from pathlib import Path

from steepest.train.baselines import ORDERS, KneserNey, compute_baselines, xz_size
from steepest.train.data import DataConfig, prepare


class WittenBell:
    """p(w | h) = (c(hw) + T(h) p(w | h')) / (c(h) + T(h)), T(h) being how many different bytes followed h."""

    def __init__(self, text: bytes, order: int) -> None:
        self.tables: list[dict[bytes, Counter[int]]] = []
        for length in range(order + 1):
            table: dict[bytes, Counter[int]] = defaultdict(Counter)
            for i in range(length, len(text)):
                table[text[i - length : i]][text[i]] += 1
            self.tables.append(table)

    def probability(self, context: bytes, symbol: int) -> float:
        """The probability of a byte after a context."""
        p = 1 / 256
        for length, table in enumerate(self.tables):
            counts = table.get(context[len(context) - length :])
            if counts:
                p = (counts[symbol] + len(counts) * p) / (counts.total() + len(counts))
        return p

    def bits_per_byte(self, text: bytes, history: bytes, *, order: int) -> float:
        """Mean code length of a text in bits per byte."""
        whole = history[-order:] + text
        places = range(order, len(whole))
        return -sum(math.log2(self.probability(whole[i - order : i], whole[i])) for i in places) / len(text)


def seconds() -> float:
    """Processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Compute all and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    data = prepare(DataConfig())
    train, val = data.train_text.tobytes(), data.val_text.tobytes()
    start = seconds()
    model = KneserNey(train)
    for order in ORDERS:
        model.bits_per_byte(val, train, order=order)
    grams = seconds() - start
    start = seconds()
    xz_size(train)
    packer = seconds() - start
    result = {
        "text": {"train_bytes": len(train), "val_bytes": len(val), "fingerprint": data.fingerprint},
        "bits_per_byte": compute_baselines(train, val),
        "witten_bell_bits_per_byte": {k: WittenBell(train, k).bits_per_byte(val, train, order=k) for k in ORDERS},
        "cpu_seconds": {"three n-gram models": grams, "one xz -9 of the training text": packer},
    }
    print(json.dumps(result, indent=1))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
