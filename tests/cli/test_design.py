import pytest
from typer.testing import CliRunner

from steepest.cli import build_app, main


def run(*arguments):
    return CliRunner(env={"COLUMNS": "160"}).invoke(
        build_app(), ["design", "polar", *arguments], catch_exceptions=False
    )


def test_prints_the_coefficients_and_the_certificate():
    done = run("--method", "minimax", "--steps", "5", "--interval", "1e-3", "1")
    assert done.exit_code == 0
    for number in ("8.287212", "-23.595887", "17.300387", "2.300652", "0.8764", "1026"):
        assert number in done.stdout


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_draws_curves(tmp_path, suffix, start):
    path = tmp_path / f"curves.{suffix}"
    done = run("--steps", "3", "--interval", "0.05", "1", "--compare", "muon", "--compare", "aol", "--out", str(path))
    assert done.exit_code == 0
    assert "a sign can flip" in done.stdout
    assert path.read_bytes().startswith(start)


def test_published_lists_alone():
    done = run("--method", "published")
    assert "muon-tuned" in done.stdout
    assert "polar-express" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", "magic"),
        ("--steps", "0"),
        ("--method", "published", "--steps", "0"),
        ("--interval", "1", "0.5"),
        ("--compare", "nobody"),
        ("--degree", "4"),
        ("--out", "curves.xyz"),
        ("--out", "curves"),
        ("--out", "no/such/folder/curves.png"),
    ],
)
def test_mistakes_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["design", "polar", *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("steepest: error: ")
    assert said.err.count("\n") == 1
    assert not said.out  # refused before anything is computed
