# SPDX-License-Identifier: Apache-2.0
"""The default comparison as an example of the documentation, from its folder.

steepest compare adamw muon sinkgd --workers 2 --out runs/example
python -m benchmarks.lab.example runs/example

Copies the rules, the table, the figures and the page to docs/lab/example/ and writes docs/lab/example.md with the
hardware, the date and the time from the rules to the last result.
"""

import argparse
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from steepest.lab import outcome, read
from steepest.lab.comparison import FILE
from steepest.lab.page import FIGURE, PAGE, TABLE, write_page
from steepest.lab.table import COLUMNS, cells

DOCS = Path(__file__).parents[2] / "docs" / "lab"
KEPT = ("method", "final loss", "sd", "p (Holm)", "lr", "at edge", "tokens to target", "state B/param", "optimizer")


def wall_time(root: Path) -> tuple[float, datetime.date]:
    """Return the seconds from the rules to the last result, and the day of that."""
    ends = [path.stat().st_mtime for path in root.glob("runs/*/result.json")]
    day = datetime.datetime.fromtimestamp(max(ends), tz=datetime.UTC).date()
    return max(ends) - (root / FILE).stat().st_mtime, day


def markdown(root: Path, note: str) -> str:
    """Return the page of the documentation."""
    rules = read(root)
    result, record = outcome(root, rules), json.loads((root / TABLE).read_text(encoding="utf-8"))
    seconds, day = wall_time(root)
    indices = [COLUMNS.index(name) for name in KEPT]
    lines = [f"| {' | '.join(KEPT)} |", "|" + "---|" * len(KEPT)]
    lines += [f"| {' | '.join(row[index] for index in indices)} |" for row in cells(result)]
    about: dict[str, Any] = record["about"]
    cpu = about["cpu"]
    return f"""# An example

`steepest compare {" ".join(method.name for method in rules.methods)}` on the shipped text, {day}: {result.done} runs of
{rules.run.train.steps} steps, {rules.trials} trials and {len(rules.seeds)} seeds a method, {seconds / 60:.0f} minutes.
{note}

{chr(10).join(lines)}

Bits per byte on the validation text. A star marks a difference from {rules.baseline} at {rules.alpha:g} after Holm's
correction. The runs are short and the model is small: what it shows is what a comparison looks like.

![Validation loss against tokens, and loss of the search against the learning rate](example/{FIGURE}.svg)

[The page](example/{PAGE}), [the table](example/{TABLE}), [the rules](example/{FILE}).

Hardware: {cpu["model"]}, {cpu["cores"]} cores, {cpu["torch_capability"]}; {about["os"]};
torch {about["torch"]}, steepest {about["steepest"]}.
"""


def main() -> None:
    """Copy and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the comparison")
    parser.add_argument("--note", default="The machine did nothing else.", help="one sentence on how it was used")
    arguments = parser.parse_args()
    rules = read(arguments.root)
    if not outcome(arguments.root, rules).finished:
        parser.error(f"{arguments.root} is not finished: steepest compare --out {arguments.root}")
    written = write_page(arguments.root, rules)
    target = DOCS / "example"
    target.mkdir(exist_ok=True)
    for path in (*written, arguments.root / FILE):
        shutil.copy(path, target / path.name)
    (DOCS / "example.md").write_text(markdown(arguments.root, arguments.note), encoding="utf-8")


if __name__ == "__main__":
    main()
