# SPDX-License-Identifier: Apache-2.0
"""The text that a run learns when it is given none: the State of the Union addresses, 1790 to 2021 (see NOTICE)."""

from pathlib import Path

#: sha256 of the decompressed text; `tools/make_corpus.py` writes the file and prints this.
SHA256 = "c0dad6ea54b9e336a04cab7e9ea2c4196da9adefa2e6544a373837758800c15c"

#: Stands between two documents in the file and nowhere else.
DOCUMENT_END = b"\f"

PATH = Path(__file__).parent / "state_of_the_union.txt.xz"

__all__ = ["DOCUMENT_END", "PATH", "SHA256"]
