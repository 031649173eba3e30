# SPDX-License-Identifier: Apache-2.0
"""The `steepest` command. Every public module of this package is one subcommand.

A subcommand's module imports only the standard library and Typer at its top, so that `steepest --help` stays fast; what
it needs from the library it imports inside its function. The module defines either a function of its own name or a
`typer.Typer` called `app` (for a command with subcommands, which may be a package whose modules are found alike).
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterable

import typer

from steepest.cli._errors import exit_with_one_line
from steepest.cli._leaving import leaving_at_once
from steepest.cli._sharing import share_processors

EPILOG = (
    "Start here: `steepest doctor` looks at this machine, `steepest train` learns a language model from the text that "
    "ships with the package, `steepest COMMAND --help` explains a command by example."
)


def build_app() -> typer.Typer:
    """Return the command-line application with every subcommand of this package.

    Returns:
        A Typer application; the subcommands are found by looking at the package, none is listed by hand.
    """
    app = typer.Typer(
        help="Train PyTorch models by steepest descent: choose the norm, get the optimizer.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)  # for `--version`, which is no command
    add_commands(app, __name__, __path__)
    return app


def add_commands(app: typer.Typer, package: str, path: Iterable[str]) -> None:
    """Add every public module of a package to an application as a command of the module's name.

    Args:
        app: Gets the commands.
        package: The package's name.
        path: Its `__path__`.
    """
    for info in sorted(pkgutil.iter_modules(path), key=lambda info: info.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=info.name)
        else:
            app.command(info.name)(getattr(module, info.name))


def _print_version(asked: bool) -> None:
    if asked:
        from steepest import __version__

        typer.echo(f"steepest {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error instead of one line."),
) -> None:
    del version, debug  # the first acts in its callback, the second is read by main() before Typer runs


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Args:
        argv: Arguments without the program's name; those of the process when None.
    """
    arguments = sys.argv[1:] if argv is None else argv
    share_processors()
    with leaving_at_once(), exit_with_one_line(debug="--debug" in arguments):
        build_app()(args=arguments, prog_name="steepest")
