# SPDX-License-Identifier: Apache-2.0
"""`steepest optimizers`."""

import typer


def optimizers(
    name: str = typer.Argument("", help="One of them, to see its settings."),
) -> None:
    """List the optimizers: bytes of state for each entry of a matrix, cost of a step, default learning rate, needs.

    Examples:
    * `steepest optimizers` lists all

    * `steepest optimizers muon` shows the settings of one

    * `steepest train --optim 'muon lr=0.01 momentum=0.9'` uses it
    """
    from steepest.optim.catalogue import catalogue, settings_of

    if name:
        typer.echo(settings_of(name))
    else:
        typer.echo(catalogue())
