# SPDX-License-Identifier: Apache-2.0
"""`steepest study`: claims of the literature, measured again."""

import typer

from steepest.cli import add_commands

app = typer.Typer(
    help="Measure claims of the literature again: what they say, what comes out here, held or not.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_commands(app, __name__, __path__)
