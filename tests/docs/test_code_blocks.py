"""What the README and the pages tell a reader to type must work.

Python blocks are executed, those of one file in one namespace, in a folder that holds only the run `runs/first`.
Of shell blocks every call of `steepest` is parsed by the command line itself, without running it; help is really run.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from typer.testing import CliRunner

from steepest.cli import build_app
from steepest.nn import Llama, preset, save_llama
from tests.train.report.run_folder import make_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELL_BLOCK = re.compile(r"^[ ]*```(?:bash|sh|shell|console)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
OPERATORS = {"&&", "||", "|", ";", "&", "(", ")", ">", ">>", "<"}


def python_blocks(page: Path) -> list:
    return list(Sybil(parsers=[PythonCodeBlockParser()], path=str(page.parent)).parse(page).examples())


def calls(text: str) -> list[list[str]]:
    """Return the arguments of every call of steepest in the shell blocks of a page."""
    found = []
    for block in SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if word in OPERATORS:
                    at = next(
                        (i for i, w in enumerate(command) if Path(w).name == "steepest" and is_call(command, i)), -1
                    )
                    if at >= 0:
                        found.append(command[at + 1 :])
                    command = []
                else:
                    command.append(word)
    return found


def is_call(command: list[str], index: int) -> bool:
    """Whether the word `steepest` at this place is the program: first, after variables, or after `-m`."""
    return command[index - 1 : index] == ["-m"] or all(re.match(r"\w+=", word) for word in command[:index])


def parse(arguments: list[str]) -> None:
    """Parse arguments down to the last subcommand, as the command line would, and run nothing."""
    command, rest = typer.main.get_command(build_app()), arguments
    while True:
        context = command.make_context("steepest", list(rest), resilient_parsing=False)
        if not hasattr(command, "resolve_command"):
            return
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


PYTHON = [page for page in PAGES if python_blocks(page)]
SHELL = [(page.relative_to(ROOT), call) for page in PAGES for call in calls(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "runs" / "first")
    save_llama(Llama(preset("nano")), tmp_path / "runs" / "first" / "checkpoints" / "step_00002000")
    monkeypatch.chdir(tmp_path)
    for example in python_blocks(page):  # of one parse, so they share a namespace
        example.evaluate()


@pytest.mark.parametrize(("page", "arguments"), SHELL, ids=[f"{page}: {shlex.join(call)}" for page, call in SHELL])
def test_a_command_of_a_page_is_one(page, arguments):
    if {"--help", "-h", "--version"} & set(arguments):
        done = CliRunner().invoke(build_app(), arguments)
        assert done.exit_code == 0, done.output
    else:
        parse(arguments)


def test_pages_have_both_kinds_of_blocks():
    assert len(PYTHON) >= 2
    assert len(SHELL) >= 5


@pytest.mark.parametrize("arguments", [["doctor", "--jsn"], ["docter"], ["report"], ["report", "a", "--out"]])
def test_a_stale_command_would_be_caught(arguments):
    with pytest.raises(Exception, match=r"(?i)no such|missing|requires an argument"):
        parse(arguments)


def test_calls_are_found_where_a_shell_would_find_them():
    page = """
```bash
. .venv/bin/activate && .venv/bin/steepest doctor --json > out.json; echo steepest is nice
OMP_NUM_THREADS=2 steepest report a \\
  b --out 'c d.html'  # steepest comment
torchrun --nproc-per-node 2 -m steepest report x | head
cd steepest
```
```python
steepest.doctor()
```
"""
    assert calls(page) == [["doctor", "--json"], ["report", "a", "b", "--out", "c d.html"], ["report", "x"]]
