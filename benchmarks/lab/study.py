# SPDX-License-Identifier: Apache-2.0
"""The full study: which optimizer needs how many tokens to reach AdamW's best loss, on a model of 5 M parameters.

steepest compare adamw muon sinkgd swan soap scion ... --out runs/study   (the command is in docs/lab/study.md)
python -m benchmarks.lab.study runs/study

Copies the rules, the figures and the page to docs/lab/study/, and writes the record to benchmarks/results/ and
docs/lab/study.md. Times of the runs are left out of both: the machine did other things as well.
"""

import argparse
import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.kernels.timing import machine
from benchmarks.lab.example import DOCS, publish, wall_time
from steepest.lab import Outcome, outcome, read
from steepest.lab.comparison import FILE
from steepest.lab.measures import loss_column
from steepest.lab.page import FIGURE, PAGE, TABLE, final_runs, write_page

RESULTS = Path(__file__).parents[1] / "results"
#: The page that is kept may not be larger.
LIMIT = 5 << 20
#: Method -> part of AdamW's tokens that it is said to need, and who says it.
CLAIMS = {
    "muon": (0.52, "about half of AdamW's compute (Liu et al., arXiv 2502.16982)"),
    "sinkgd": (1 / 3, "a third of Adam's tokens (Scetbon et al., arXiv 2502.06742)"),
    "swan": (0.5, "half of Adam's tokens (Ma et al., arXiv 2412.13148)"),
    "soap": (0.6, "at least 40 % fewer steps than AdamW (Vyas et al., arXiv 2409.11321)"),
}


def tokens(result: Outcome) -> float:
    """Return the tokens of a run."""
    train, model = result.comparison.run.train, result.comparison.run.model
    return float(train.steps * train.batch * model.context)


def record(root: Path) -> dict[str, Any]:
    """Return what is kept of a study: losses of every run, mean curves, tokens to the target."""
    result = outcome(root, read(root))
    whole = tokens(result)
    rows = []
    for row in result.rows:
        runs = final_runs(root, result)[row.name]
        rows.append({
            "method": row.name,
            "values": row.values,
            "at_edge": row.at_edge,
            "losses": row.losses,
            "mean": row.mean,
            "sd": row.sd,
            "interval": row.interval,
            "p_holm": row.p,
            "sensitivity": row.sensitivity,
            "diverged": row.diverged + row.failed,
            "pruned": row.pruned,
            "tokens_to_target": row.tokens,
            "part_of_the_tokens": row.tokens / whole if row.tokens else None,
            "state_bytes_per_parameter": row.state_bytes,
            "curve": {
                "tokens": runs[0].metrics.eval["tokens"].tolist(),
                "loss": [statistics.mean(column) for column in zip(*map(loss_column, runs), strict=True)],
            },
        })  # fmt: skip
    trials = [
        {"run": t.name, "method": t.method, "seed": t.seed, **t.values, "loss": result.losses[t.name]}
        for t in result.trials
    ]
    seconds, day = wall_time(root)
    about = machine() | {"date": str(day)}
    return {
        "about": about,
        "hours": seconds / 3600,
        "parameters": int(final_runs(root, result)[result.rows[0].name][0].number("parameters") or 0),
        "tokens": whole,
        "target": result.target,
        "rows": rows,
        "trials": trials,
        "rules": result.comparison.to_dict(),
        "digest": result.comparison.digest,
    }


def table(found: dict[str, Any]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| | bits per byte, mean (sd) | p (Holm) | best lr | tokens to AdamW's best | part of AdamW's | state B/param |"
    ]
    lines.append("|" + "---|" * 7)
    for row in found["rows"]:
        reached = row["tokens_to_target"]
        p = "baseline" if row["method"] == found["rules"]["baseline"] else f"{row['p_holm']:.2g}"
        cells = [
            f"`{row['method']}`",
            f"{row['mean']:.4f} ({row['sd']:.4f})",
            p,
            f"{row['values']['lr']:g}" + (" (edge)" if row["at_edge"] else ""),
            f"{reached / 1e3:.0f} k" if reached else "not reached",
            f"{row['part_of_the_tokens']:.0%}" if reached else "",
            f"{row['state_bytes_per_parameter']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(found: dict[str, Any]) -> str:
    """Return one line for each claim of the literature: what it says, what was found here, whether it held."""
    whole, lines = found["tokens"], []
    for row in found["rows"]:
        if row["method"] not in CLAIMS:
            continue
        part, claim = CLAIMS[row["method"]]
        reached = row["part_of_the_tokens"]
        here = (
            "it did not reach it" if reached is None else f"at most {reached:.0%} here ({reached * whole / 1e3:.0f} k)"
        )
        held = "not held" if reached is None else "held" if reached <= part else "not shown"  # of a bound from above
        lines.append(f"- `{row['method']}`, {claim}: {here}. **{held.capitalize()}.**")
    return "\n".join(lines)


def markdown(found: dict[str, Any], name: str, path: Path) -> str:
    """Return the page of the documentation."""
    about, train = found["about"], found["rules"]["run"]["train"]
    page = f"[The page]({name}/{PAGE}), [the rules]({name}/{FILE})." if (DOCS / name / PAGE).is_file() else ""
    blocks = [
        "# The full study",
        _wrapped(_what(found)),
        table(found),
        _wrapped(
            f"AdamW's best loss, the mean over the seeds, is {found['target']:.4f} bits per byte. `Tokens to AdamW's "
            "best` is where the mean curve of a method first reaches it. The learning rate falls to 0 at the end of "
            f"the {train['steps']} steps, so this is an upper bound: a run planned to be that short would need fewer."
        ),
        f"![Validation loss against tokens, and loss of the search against the learning rate]({name}/{FIGURE}.svg)",
        "## What holds of the papers' claims",
        verdicts(found),
        _wrapped(
            f"This is early training of a small model, {found['tokens'] / found['parameters']:.2g} tokens a parameter. "
            "It says nothing of long runs, where the papers measured. AdamW has one learning rate for everything; "
            "methods for matrices leave embedding, head and gains to AdamW at a rate in a fixed ratio to theirs."
        ),
        "## Again",
        f"```bash\n{_command(found['rules'])}\n```",
        _wrapped(
            f"{page} {about['processor']}, one thread a run, {about['date']}, torch {about['versions']['torch']}. "
            "Other programs used the machine, so no times are given; losses and tokens do not depend on them. From "
            f"`benchmarks/results/{path.name}`, made by `benchmarks/lab/study.py`."
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _what(found: dict[str, Any]) -> str:
    rules, rows = found["rules"], found["rows"]
    train, model = rules["run"]["train"], rules["run"]["model"]
    failed = sum(row["diverged"] for row in rows)
    edge = ", ".join(f"`{row['method']}`" for row in rows if row["at_edge"])
    count = sum(row["pruned"] for row in rows)
    pruned = f" and {count} were stopped early, by one rule for all" if "pruning" in rules else ""
    return (
        "How many tokens does each method need to reach the best loss of a tuned AdamW? "
        f"{len(rows)} methods, a decoder of {found['parameters'] / 1e6:.1f} M parameters (width {model['width']}, "
        f"{model['layers']} layers), the shipped text, {train['steps']} steps of {train['batch'] * model['context']} "
        f"tokens ({found['tokens'] / 1e3:.0f} k in all), {train['precision']}. Each learning rate was tuned with "
        f"{rules['trials']} trials over a range of the same ratio, and the best run with {len(rules['seeds'])} fresh "
        f"seeds: {len(found['trials'])} runs, of which {failed} diverged or failed{pruned}. "
        + (f"The best rate of {edge} lies at the edge of what was tried." if edge else "No best rate lies at an edge.")
    )


def _command(rules: dict[str, Any]) -> str:
    train, model = rules["run"]["train"], rules["run"]["model"]
    settings = {f"model.{key}": model[key] for key in ("width", "layers", "heads", "context")}
    settings |= {f"train.{key}": train[key] for key in ("batch", "precision", "eval_every", "diagnose_every")}
    settings["data.val_fraction"] = rules["run"]["data"]["val_fraction"]
    methods = " ".join(method["name"] for method in rules["methods"])
    words = [f"steepest compare {methods} --out runs/study --steps {train['steps']} --trials {rules['trials']}"]
    if "pruning" in rules:
        words[0] += f" --prune {rules['pruning']['percentile']:g}"
    words += [f"--set {key}={value}" for key, value in settings.items()]
    return " \\\n  ".join([words[0], *(" ".join(words[i : i + 3]) for i in range(1, len(words), 3))])


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Copy and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the comparison")
    parser.add_argument("--name", default="study", help="of the page under docs/lab and of the record")
    arguments = parser.parse_args()
    if not outcome(arguments.root, read(arguments.root)).finished:
        parser.error(f"{arguments.root} is not finished: steepest compare --out {arguments.root}")
    target = DOCS / arguments.name
    target.mkdir(exist_ok=True)
    made = (*write_page(arguments.root, read(arguments.root)), arguments.root / FILE)
    kept = [path for path in made if path.name != TABLE and (path.name != PAGE or path.stat().st_size <= LIMIT)]
    publish(kept, arguments.root, target)
    found = record(arguments.root)
    path = RESULTS / f"lab_{arguments.name}_amd-epyc_{found['about']['date']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = DOCS / f"{arguments.name}.md"
    page.write_text(markdown(found, arguments.name, path), encoding="utf-8")
    print(table(found), verdicts(found), path, page, sep="\n")


if __name__ == "__main__":
    main()
