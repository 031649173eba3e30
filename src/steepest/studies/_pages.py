# SPDX-License-Identifier: Apache-2.0
"""The pages that follow from the studies and their records: the ledger, a page for each study, rows for the README."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steepest.studies._records import RECORDS, load, numbers, standing
from steepest.studies._study import BUDGETS, Claim, Paper, Study, Verdict

_README_PART = re.compile(r"(<!-- studies -->\n).*?(<!-- /studies -->)", re.DOTALL)
_FIGURES = "images/studies"


def write_pages(studies: Sequence[Study], root: Path, *, draw: bool = True) -> list[Path]:
    """Write the ledger, the studies' pages and figures, and the README's table.

    Args:
        studies: All of them.
        root: Folder of the repository, which has `README.md` and `docs/`.
        draw: Make the figures again from the records.

    Returns:
        The files that changed, figures included.

    Raises:
        ValueError: If the folder is not the repository.
    """
    from steepest.studies._figure import save_figure

    written = []
    for path, text in pages(studies, root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    for study in studies if draw else ():
        shown = shown_numbers(study)
        if shown:
            path = root / "docs" / _FIGURES / f"{study.key}.png"
            save_figure(study.draw(shown), path)
            written.append(path)
    return written


def pages(studies: Sequence[Study], root: Path) -> dict[Path, str]:
    """Return the text of every generated page.

    Args:
        studies: All of them.
        root: Folder of the repository.

    Returns:
        Path -> its whole text. The README is among them, with its table replaced.

    Raises:
        ValueError: If the folder has no README with the two comments that enclose the table.
    """
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if not _README_PART.search(text):
        raise ValueError(f"{readme} needs the lines <!-- studies --> and <!-- /studies -->; is this the repository?")
    table = "\n".join(readme_rows(studies)) + "\n"
    made = {readme: _README_PART.sub(lambda part: part[1] + table + part[2], text)}
    made[root / "docs" / "studies" / "index.md"] = ledger(studies)
    made |= {root / "docs" / "studies" / f"{study.key}.md": page(study) for study in studies}
    return made


def shown_numbers(study: Study, folder: Path = RECORDS) -> dict[str, Any]:
    """Return key of the claim -> the numbers that pages show: of the full run where it was measured, else the quick."""
    shown: dict[str, Any] = {}
    for budget in BUDGETS:
        record = load(study.key, budget, folder)
        shown |= {} if record is None else numbers(record)
    return shown


def ledger(studies: Sequence[Study], folder: Path = RECORDS) -> str:
    """Return the page that lists every claim with its verdict."""
    rows, counts = [], Counter()
    for study in studies:
        for claim in study.claims:
            now = standing(study, claim, folder)
            counts[now["verdict"]] += 1
            name = f"[{study.title}]({study.key}.md)"
            rows.append(
                f"| {name} | {claim.statement} | {_cell(claim.number)} | {_ours(now)} | {_verdict(claim, now)} |"
            )
    return "\n".join(
        [
            "# Ledger",
            "",
            "What the literature says that this library builds on, and what came out when measured here. A claim that",
            "did not hold stays, with its numbers. The condition that decides each was written down before the",
            "measurement; it stands on the study's page. `steepest study run KEY` measures again.",
            "",
            f"{sum(counts.values())} claims of {len(studies)} studies: " + _tally(counts) + ".",
            "",
            "| study | claim | their number | ours | verdict |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "\\* from a run of seconds; there is a longer one.",
            "",
        ]
    )


def readme_rows(studies: Sequence[Study], folder: Path = RECORDS) -> list[str]:
    """Return the README's table: a row for each study."""
    rows = ["| question | verdicts |", "|---|---|"]
    for study in studies:
        counts = Counter(standing(study, claim, folder)["verdict"] for claim in study.claims)
        rows.append(f"| [{study.question}](docs/studies/{study.key}.md) | {_tally(counts)} |")
    return rows


def page(study: Study, folder: Path = RECORDS) -> str:
    """Return a study's page.

    Args:
        study: Which.
        folder: Where records are.

    Returns:
        Markdown.
    """
    rows, conditions = [], []
    for claim in study.claims:
        now = standing(study, claim, folder)
        rows.append(
            f"| {claim.statement} | {_cell(claim.number)} ({claim.source}) | {_ours(now)} | {_verdict(claim, now)} |"
        )
        conditions.append(f"- {_bold_head(claim)}: {claim.condition}")
    shown = shown_numbers(study, folder)
    picture = [f"![{study.caption}](../{_FIGURES}/{study.key}.png)", "", study.caption, ""] if shown else []
    commands = [f"steepest study run {study.key}"] + [f"steepest study run {study.key} --full"] * study.has_full
    return "\n".join(
        [
            f"# {study.title}",
            "",
            f"{study.question} From {_citation(study.paper)}.",
            "",
            *picture,
            "| claim | their number | ours | verdict |",
            "|---|---|---|---|",
            *rows,
            "",
            *_provenance(study, folder),
            "",
            "## The idea",
            "",
            study.idea.strip(),
            "",
            "## With steepest",
            "",
            "```python",
            study.code.strip(),
            "```",
            "",
            "## What surprised",
            "",
            study.surprise.strip(),
            "",
            "## What decides",
            "",
            "Fixed in the code before the measurement:",
            "",
            *conditions,
            "",
            "## Measure again",
            "",
            "```bash",
            *commands,
            "```",
            "",
        ]
    )


def _bold_head(claim: Claim) -> str:
    return f"**{claim.key.replace('_', ' ')}**"


def _citation(paper: Paper) -> str:
    name = f"{paper.authors} ({paper.year}), *{paper.title}*"
    return f"{name}, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _ours(now: dict[str, Any]) -> str:
    return _cell(now["ours"]) if now["ours"] else now["why"]


def _verdict(claim: Claim, now: dict[str, Any]) -> str:
    more = "full" in claim.budgets and now.get("budget") == "quick"
    return f"**{now['verdict']}**" + r" \*" * more


def _tally(counts: Counter) -> str:
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def _provenance(study: Study, folder: Path) -> list[str]:
    lines = []
    for budget in reversed(BUDGETS):
        record = load(study.key, budget, folder)
        if record is None:
            continue
        cpu, seconds = record["machine"]["cpu"], record.get("processor_seconds", record["seconds"])
        took = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
        lines.append(
            f"{budget.capitalize()} run of {record['date']}: {took} on {cpu['model']}, torch"
            f" {record['machine']['torch']}, seed {record['seed']} (`records/{study.key}.{budget}.json`)."
        )
    if any(r"\*" in _verdict(claim, standing(study, claim, folder)) for claim in study.claims):
        lines.append(r"\* from the quick run; there is a full one.")
    lines += [f"Also used: `benchmarks/results/{name}`." for name in study.benchmarks]
    return ["  \n".join(lines)]
