"""Every study, found by looping over the package: its quick run gives the kept verdicts, its pages are up to date."""

from pathlib import Path

import pytest

from steepest.studies import BUDGETS, Verdict, changed, find, get, keys, load, numbers, pages, run, verdicts

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [(key, budget) for key in keys() for budget in BUDGETS if load(key, budget)]


@pytest.mark.parametrize("key", [key for key in keys() if any("quick" in claim.budgets for claim in get(key).claims)])
def test_a_quick_run_gives_the_kept_verdicts(key):
    record = run(get(key), "quick")
    assert changed(record) == [], "a verdict changed: run `steepest study run KEY --record` and look why"
    get(key).draw(numbers(record))
    for claim in get(key).claims:
        if numbers(record).get(claim.key):
            claim.ours.format(**numbers(record)[claim.key])


@pytest.mark.parametrize(("key", "budget"), RECORDS)
def test_a_kept_record_is_judged_as_the_code_judges_now(key, budget):
    record = load(key, budget)
    assert record is not None
    for claim in get(key).claims:
        kept = record["claims"][claim.key]
        assert kept["verdict"] == (claim.decide(kept["numbers"]) if kept["numbers"] else Verdict.UNTESTED), claim.key
    assert set(verdicts(record)) == {claim.key for claim in get(key).claims}
    assert {"seed", "date", "seconds", "machine"} <= set(record)


def test_generated_pages_are_up_to_date():
    stale = [path.name for path, text in pages(find(), ROOT).items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run `steepest study ledger --write .`"
    orphans = {path.stem for path in (ROOT / "docs" / "studies").glob("*.md")} - {"index", *keys()}
    assert not orphans


@pytest.mark.parametrize("key", keys())
def test_a_study_is_whole(key):
    study = get(key)
    assert study.key == key
    assert study.question.endswith("?")
    assert study.idea.strip()
    assert study.surprise.strip()
    assert "steepest" in study.code
    assert (ROOT / "docs" / "images" / "studies" / f"{key}.png").exists()
    for name in study.benchmarks:
        assert (ROOT / "benchmarks" / "results" / name).exists()
