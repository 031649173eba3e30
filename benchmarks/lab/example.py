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
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steepest.lab import outcome, read
from steepest.lab.comparison import FILE
from steepest.lab.page import FIGURE, PAGE, TABLE, write_page
from steepest.lab.table import COLUMNS, cells

DOCS = Path(__file__).parents[2] / "docs" / "lab"
KEPT = ("method", "final loss", "sd", "p (Holm)", "lr", "at edge", "tokens to target", "state B/param")


def wall_time(root: Path) -> tuple[float, datetime.date]:
    """Return the seconds from the rules to the last result, and the day of that."""
    ends = [path.stat().st_mtime for path in root.glob("runs/*/result.json")]
    day = datetime.datetime.fromtimestamp(max(ends), tz=datetime.UTC).date()
    return max(ends) - (root / FILE).stat().st_mtime, day


def publish(paths: Iterable[Path], root: Path, target: Path) -> None:
    """Copy files of a comparison without the places where it was made: its folder and the current one of its runs."""
    about = json.loads((root / TABLE).read_text(encoding="utf-8"))["about"]
    places = {str(root.resolve()): root.name, about["disk"]["folder"]: root.name}
    for path in paths:
        data = path.read_bytes()
        for place, name in places.items():
            data = data.replace(place.encode(), name.encode())
        (target / path.name).write_bytes(data)


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
    methods = " ".join(method.name for method in rules.methods)
    what = (
        f"`steepest compare {methods}` on the shipped text, {day}: {result.done} runs of {rules.run.train.steps} "
        f"steps, {rules.trials} trials and {len(rules.seeds)} seeds a method, {seconds / 60:.0f} minutes. {note}"
    )
    return f"""# An example

{textwrap.fill(what, 120, break_long_words=False, break_on_hyphens=False)}

{chr(10).join(lines)}

Bits per byte on the validation text. A star marks a difference from {rules.baseline} at {rules.alpha:g} after Holm's
correction. The runs are short and the model is small: what it shows is what a comparison looks like. AdamW has one rate
for everything; methods for matrices leave embedding, head and gains to AdamW at a rate in a fixed ratio to theirs.

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
    publish((*written, arguments.root / FILE), arguments.root, target)
    (DOCS / "example.md").write_text(markdown(arguments.root, arguments.note), encoding="utf-8")


if __name__ == "__main__":
    main()
