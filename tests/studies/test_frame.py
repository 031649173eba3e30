"""The frame: verdicts, records that survive, parts that are kept, pages that follow."""

import json

import pytest
from typer.testing import CliRunner

from steepest.cli import build_app
from steepest.studies import (
    Claim,
    Paper,
    Run,
    Study,
    Verdict,
    changed,
    figure,
    judge,
    ledger,
    page,
    run,
    save,
    save_figure,
    standing,
)

CALLS = []


def measure(this: Run):
    def part():
        CALLS.append(this.budget)
        return {"value": (3.5 if this.quick else 1.5) + this.seed}

    return this.once("part", part)


def claim(key, limit, **more):
    return Claim(
        key=key,
        statement=f"Below {limit}.",
        number=f"|{limit}|",
        source="Table 1",
        condition="below the limit; in part below twice of it.",
        measure=measure,
        decide=lambda n: judge(n["value"] < limit, n["value"] < 2 * limit),
        ours="{value:.1f}",
        **more,
    )


def study():
    def draw(numbers):
        made, (axes,) = figure("values")
        axes.plot([entry["value"] for entry in numbers.values()])
        return made

    return Study(
        key="made_up",
        title="Made up",
        paper=Paper("Nobody", "Nothing", 2026, "0000.00000"),
        question="Is it below?",
        idea="$x < 1$",
        code="import steepest",
        claims=(claim("one", 1.0), claim("two", 2.0), claim("four", 4.0, budgets=("full",), untested="takes long")),
        draw=draw,
        caption="Values.",
        surprise="None.",
    )


def test_a_verdict_is_a_function_of_the_numbers():
    assert [judge(True), judge(False, True), judge(False)] == [Verdict.HELD, Verdict.IN_PART, Verdict.NOT]


def test_claims_share_what_they_measure_and_a_record_has_all(tmp_path):
    CALLS.clear()
    record = run(study(), "quick", seed=1)
    assert CALLS == ["quick"]  # asked for by two claims, measured once
    assert {key: entry["verdict"] for key, entry in record["claims"].items()} == {
        "one": "not held",
        "two": "not held",
        "four": "not tested here",
    }
    assert record["claims"]["one"]["numbers"] == {"value": 4.5}
    assert record["claims"]["four"]["why"] == "takes long"
    assert json.loads(save(record, tmp_path).read_text()) == json.loads(json.dumps(record))


def test_a_full_run_goes_on_where_it_was(tmp_path):
    CALLS.clear()
    first = run(study(), "full", folder=tmp_path)
    second = run(study(), "full", folder=tmp_path)
    assert CALLS == ["full"]
    assert first["claims"] == second["claims"]
    run(study(), "full", folder=tmp_path, seed=1)  # another seed takes none of it
    assert CALLS == ["full", "full"]


def test_a_changed_verdict_is_seen(tmp_path):
    record = run(study(), "quick")
    assert len(changed(record, tmp_path)) == 3  # nothing is kept
    save(record, tmp_path)
    assert changed(record, tmp_path) == []
    record["claims"]["one"]["verdict"] = "held"
    assert changed(record, tmp_path) == ["made_up: one was not held, is held"]


def test_the_full_record_stands_before_the_quick_one(tmp_path):
    made = study()
    one, _, four = made.claims
    assert standing(made, four, tmp_path)["why"] == "full run pending"
    save(run(made, "quick"), tmp_path)
    assert standing(made, one, tmp_path)["budget"] == "quick"
    save(run(made, "full"), tmp_path)
    now = standing(made, one, tmp_path)
    assert (now["verdict"], now["ours"], now["budget"]) == ("held in part", "1.5", "full")
    text = page(made, tmp_path)
    assert "| Below 1.0. | \\|1.0\\| (Table 1) | 1.5 | **held in part** |" in text
    assert "3 claims of 1 studies: 2 held, 1 held in part." in ledger([made], tmp_path)


def test_a_figure_is_a_file(tmp_path):
    save_figure(study().draw({"one": {"value": 1.0}}), tmp_path / "deep" / "a.png")
    assert (tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_say_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match="say why"):
        claim("lazy", 1.0, budgets=("full",))
    with pytest.raises(ValueError, match="budgets of the claim"):
        claim("odd", 1.0, budgets=("slow",))
    with pytest.raises(ValueError, match="budget is one of quick, full"):
        run(study(), "slow")
    with pytest.raises(ValueError, match="keys of their own"):
        Study(**{**vars(study()), "claims": (claim("one", 1.0), claim("one", 2.0))})


def test_the_command_line_knows_the_studies(tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(build_app(), ["study", *arguments])

    assert "exp_accuracy" in invoke("list").output
    assert "merge request 779" in invoke("show", "exp_accuracy").output
    assert "# Ledger" in invoke("ledger").output
    assert "no study is named" in str(invoke("run", "exp_acuracy").exception)
    assert "--all" in str(invoke("run").exception)


def test_a_run_from_the_command_line_leaves_record_and_figure(tmp_path, monkeypatch):
    done = CliRunner().invoke(build_app(), ["study", "run", "glu_variants", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "3072 becomes 2048" in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"glu_variants.quick.json", "glu_variants.png"}

    def other(key, budget, folder):
        return {"claims": {"parameters": {"verdict": "not held", "numbers": {}}}}

    monkeypatch.setattr("steepest.studies._records.load", other)
    done = CliRunner().invoke(build_app(), ["study", "run", "glu_variants", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "parameters was not held, is held" in done.output
