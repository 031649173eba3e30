import ast
import pathlib
import subprocess
import sys

import steepest
from steepest import cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "steepest", *arguments], capture_output=True, text=True, timeout=60)


def test_version_is_the_packages():
    assert run("--version").stdout.strip() == f"steepest {steepest.__version__}"


def test_unknown_command_is_one_line_and_fails():
    done = run("trian")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_help_and_import_do_not_load_torch():
    code = "import sys, steepest, steepest.cli; steepest.cli.build_app(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_command_modules_import_only_the_light_ones_at_the_top():
    light = set(sys.stdlib_module_names) | {"typer"}
    for path in pathlib.Path(cli.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in light or name.startswith("steepest.cli"), f"{path.name} imports {name}"
