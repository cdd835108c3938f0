"""The command ``list``."""

from __future__ import annotations

from typing import Annotated

import typer

from deconfound.cli.options import Json


def list_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="recipes, models, data, attacks, suites, objectives or studies.")
    ],
    json: Json = False,
) -> None:
    """Show what there is, with a line on each."""
    from deconfound.recipes.listing import listing

    rows = listing(kind)
    if json:
        import json as codec

        typer.echo(codec.dumps(dict(rows), indent=1))
        return
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}")
