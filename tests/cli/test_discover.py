import json

import pytest
from typer.testing import CliRunner

from steepest.cli import build_app, main


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(build_app(), ["discover", *arguments], catch_exceptions=False)


def test_searches_proves_draws_and_goes_on(tmp_path):
    small = ("exp2", "--population", "10", "--children", "15", "--max-cost", "4", "--out", str(tmp_path), "--best")
    done = run(*small, "--generations", "2")
    assert done.exit_code == 0
    assert "double exp2(double x)" in done.stdout
    assert "def exp2(x):" in done.stdout
    front = json.loads((tmp_path / "front.json").read_text())
    assert all(item["certificate"]["bound"] >= item["error"] for item in front if item["certificate"])
    assert any(item["certificate"] for item in front)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert run(*small, "--generations", "3").exit_code == 0
    assert json.loads((tmp_path / "checkpoint.json").read_text())["generation"] == 3


def test_float32_reports_ulp_and_time(tmp_path):
    small = ("exp", "--interval", "0.25", "0.2501", "--precision", "float32", "--operations", "fma,mul,add")
    sizes = ("--population", "8", "--children", "10", "--generations", "2", "--max-cost", "2", "--exhaustive", "--best")
    for costs in ("port", "measured"):
        done = run(*small, *sizes, "--costs", costs, "--out", str(tmp_path / costs))
        assert done.exit_code == 0
        assert "def exp(x):" in done.stdout
        content = json.loads((tmp_path / costs / "front.json").read_text())
        assert content["function"] == "exp"
        for row in content["programs"]:
            assert row["relative_time"] > 0
            assert row["exhaustive"] is None or row["exhaustive"]["ulp"] >= 0.99 * row["ulp"]
        assert any(row["exhaustive"] for row in content["programs"])
        assert (tmp_path / costs / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine",), "choose from"),
        (("tan", "--interval", "0", "3"), "pole"),
        (("log2", "--interval", "-1", "1"), "finite real number"),
        (("exp2", "--generations", "0"), "budget"),
        (("exp2", "--minutes", "0"), "budget"),
        (("exp2", "--operations", "add,cos"), "no operation"),
        (("exp2", "--costs", "free"), "costs are"),
        (("exp2", "--costs", "measured"), "with --precision float32"),
        (("exp2", "--precision", "float16"), "real or float32"),
        (("exp2", "--workers", "0"), "at least 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["discover", *arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
