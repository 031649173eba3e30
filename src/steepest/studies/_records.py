# SPDX-License-Identifier: Apache-2.0
"""Runs of studies and what they leave: a record with the numbers, the seed, versions, hardware and verdicts."""

import datetime
import time
from collections.abc import Callable, Mapping
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from steepest.studies._study import BUDGETS, Budget, Claim, Numbers, Run, Study, Verdict, plain
from steepest.train import files
from steepest.train.machine import describe_for_record

#: Records that ship with the package, one for each study and budget.
RECORDS = Path(str(package_files("steepest.studies"))) / "records"
_PENDING = "full run pending"


def run(
    study: Study,
    budget: Budget = "quick",
    *,
    seed: int = 0,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the claims of a study.

    Args:
        study: Which.
        budget: "quick" takes seconds, "full" up to an hour.
        seed: Of everything random.
        folder: Where the parts of the measurement are kept, so that an interrupted run goes on; None keeps nothing.
        tell: Called with a line of text after each part.

    Returns:
        The record: `study`, `budget`, `seed`, `date`, `seconds`, `processor_seconds` (parts that an
        earlier call had measured not included), `machine` (versions and hardware) and for each claim
        its `verdict`, the `numbers` and, where it was not measured, `why`.

    Raises:
        ValueError: If the budget is none, or the study has no such run.
    """
    if budget not in BUDGETS:
        raise ValueError(f"budget is one of {', '.join(BUDGETS)}, got {budget!r}")
    if not any(budget in claim.budgets for claim in study.claims):
        raise ValueError(f"the study {study.key} has no {budget} run: run the other one")
    parts = None if folder is None else folder / f"{budget}-seed{seed}-{study.digest}"
    this = Run(budget, seed, parts, tell)
    begun, worked = time.monotonic(), time.process_time()
    claims = {claim.key: _measured(claim, this) for claim in study.claims}
    return {
        "study": study.key,
        "budget": budget,
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(time.monotonic() - begun, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "machine": describe_for_record(),
        "claims": claims,
    }


def _measured(claim: Claim, this: Run) -> dict[str, Any]:
    if this.budget not in claim.budgets:
        return {"verdict": str(Verdict.UNTESTED), "why": claim.untested, "numbers": {}}
    numbers = plain(claim.measure(this))
    return {"verdict": str(claim.decide(numbers)), "numbers": numbers}


def verdicts(record: Mapping[str, Any]) -> dict[str, str]:
    """Return key of the claim -> verdict."""
    return {key: entry["verdict"] for key, entry in record["claims"].items()}


def numbers(record: Mapping[str, Any]) -> dict[str, Numbers]:
    """Return key of the claim -> numbers, of those that were measured."""
    return {key: entry["numbers"] for key, entry in record["claims"].items() if entry["numbers"]}


def load(key: str, budget: Budget, folder: Path = RECORDS) -> dict[str, Any] | None:
    """Return a kept record.

    Args:
        key: Of the study.
        budget: "quick" or "full".
        folder: Where records are.

    Returns:
        The record, or None if there is none.
    """
    path = folder / f"{key}.{budget}.json"
    return files.read_json(path) if path.exists() else None


def save(record: Mapping[str, Any], folder: Path = RECORDS) -> Path:
    """Keep a record as `STUDY.BUDGET.json` in a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['study']}.{record['budget']}.json"
    files.write_json(path, record)
    return path


def standing(study: Study, claim: Claim, folder: Path = RECORDS) -> dict[str, Any]:
    """Return what is known of a claim: from the full run where it was measured, else from the quick one.

    Args:
        study: The claim's.
        claim: Which.
        folder: Where records are.

    Returns:
        `verdict`; `ours` (text); `budget` and `date` of the record that says so, or `why` nothing does.
    """
    for budget in reversed(BUDGETS):
        record = load(study.key, budget, folder)
        entry = {} if record is None else record["claims"].get(claim.key, {})
        if record is not None and entry.get("numbers"):
            ours = claim.ours.format(**entry["numbers"])
            return {"verdict": entry["verdict"], "ours": ours, "budget": budget, "date": record["date"]}
    missing = "full" in claim.budgets and load(study.key, "full", folder) is None
    return {"verdict": str(Verdict.UNTESTED), "ours": "", "why": _PENDING if missing else claim.untested}


def changed(record: Mapping[str, Any], folder: Path = RECORDS) -> list[str]:
    """Return the claims whose verdict is not that of the kept record, as sentences; all if there is no record."""
    kept = load(record["study"], record["budget"], folder)
    before = {} if kept is None else verdicts(kept)
    return [
        f"{record['study']}: {key} was {before.get(key, 'not recorded')}, is {verdict}"
        for key, verdict in verdicts(record).items()
        if before.get(key) != verdict
    ] + [f"{record['study']}: {key} is no claim any more" for key in before if key not in record["claims"]]
