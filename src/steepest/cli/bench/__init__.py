# SPDX-License-Identifier: Apache-2.0
"""`steepest bench`: every module of this package is one theme."""

import typer

from steepest.cli import add_commands

app = typer.Typer(
    help="Time the library on this machine beside its alternatives.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# With one theme alone Typer would drop its name.
app.callback()(lambda: None)
add_commands(app, __name__, __path__)
