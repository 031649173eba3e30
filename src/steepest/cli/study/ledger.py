# SPDX-License-Identifier: Apache-2.0
"""`steepest study ledger`."""

from pathlib import Path

import typer


def ledger(
    write: Path = typer.Option(
        None, "--write", metavar="REPOSITORY", help="Make the pages, figures and README table of this checkout again."
    ),
) -> None:
    """Print every claim with their number, ours and the verdict, from the kept records.

    Examples:
    * `steepest study ledger`

    * `steepest study ledger --write .` in a checkout, after a record or a study has changed
    """
    from steepest.studies import find, write_pages
    from steepest.studies import ledger as page

    if write is not None:
        for path in write_pages(find(), write):
            typer.echo(path)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    text = page(find())
    console.print(Markdown(text) if console.is_terminal else text, markup=False, highlight=False)
