"""The command ``analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deconfound.cli.options import Data, Json, Overwrite, Quiet
from deconfound.cli.screen import Screen, logged


def analyze(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as train leaves it.")],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="style: content and style of a CausalAdv run.")],
    data: Data = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", help="The first N test images; all by default.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="SEED", help="Draw the N images with this seed.")] = None,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Of all random numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(metavar="B", help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu or cuda.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for record and figures [RUN/analyze-KIND].")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Look into a trained network: what it leans on, as a record with figures.

    Example: deconfound analyze runs/first style
    """
    from deconfound.recipes.analysing import Look, look_into
    from deconfound.reporting import analysis_table

    screen = Screen(quiet=quiet)
    with logged(screen):
        look = Look(run=run, kind=kind, data=data, n=n, sample=sample, seed=seed, batch_size=batch_size, device=device)
        record, files = look_into(look, out=out, overwrite=overwrite, monitor=screen)
    if json:
        typer.echo(record.to_json(), nl=False)
        return
    screen.output.print(analysis_table(record))
    others = ", ".join(file.name for file in files[1:])
    screen.output.print(f"Record: {files[0]}; beside it {others}", soft_wrap=True, markup=False)
