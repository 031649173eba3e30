# SPDX-License-Identifier: Apache-2.0
"""`steepest study show`."""

import typer


def show(key: str = typer.Argument(help="Of the study; `steepest study list` has them.")) -> None:
    """Show a study: its idea, its claims, what decides them, and what came out in the kept runs.

    Example: `steepest study show muon_vs_adamw`
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from steepest.studies import get, page

    console = Console()
    text = page(get(key))
    console.print(Markdown(text) if console.is_terminal else text, markup=False, highlight=False)
