# SPDX-License-Identifier: Apache-2.0
"""Plain text tables."""

from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: titles, a rule, rows. Columns that are empty in every row are left out.

    Args:
        head: Titles.
        rows: Cells, as many in each as there are titles.
    """
    kept = [i for i in range(len(head)) if any(row[i] for row in rows) or not rows]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in kept]
    ruled = [head, ["-" * max(len(row[i]) for row in (head, *rows)) for i in range(len(head))], *rows]
    return ["  ".join(row[i].ljust(w) for i, w in zip(kept, widths, strict=True)).rstrip() for row in ruled]
