# SPDX-License-Identifier: Apache-2.0
"""`steepest study list`."""

import typer


def list() -> None:
    """List the studies with their question and the verdicts of their claims.

    Example: `steepest study list`
    """
    from collections import Counter

    from steepest.studies import find, standing

    for study in find():
        counts = Counter(standing(study, claim)["verdict"] for claim in study.claims)
        typer.echo(f"{study.key:<20}  {study.question}")
        typer.echo(f"{'':<20}  {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
