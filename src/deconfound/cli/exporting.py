"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deconfound.cli.options import Json, Overwrite
from deconfound.cli.screen import Screen, logged


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run folder, as train leaves it.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where weights and card go.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="F,..", help="safetensors, onnx or both; onnx needs the extra export.")
    ] = "safetensors",
    stochastic: Annotated[
        str, typer.Option(metavar="S", help="onnx of a random network: refuse, or its deterministic surrogate.")
    ] = "refuse",
    records: Annotated[
        list[Path],
        typer.Option("--record", metavar="FILE", help="Evaluation for the card [those in RUN]; may be repeated."),
    ] = [],  # noqa: B006 (typer copies it)
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a finished run: its weights, and a card that says what they are and what they withstood.

    Example: deconfound export runs/first --out mine --format safetensors,onnx
    """
    from deconfound.recipes.exporting import export as job

    screen = Screen()
    with logged(screen):
        card, files = job(
            run,
            out,
            formats=formats,
            stochastic=stochastic,  # type: ignore[arg-type]  # checked there
            records=records,
            overwrite=overwrite,
        )
    if json:
        typer.echo(card.to_json(), nl=False)
        return
    judged = f"{len(card.evaluations)} evaluation(s) on the card" if card.evaluations else "nothing was evaluated"
    for file in card.files:
        screen.output.print(f"{out / file.name}: {file.computes}", soft_wrap=True, markup=False)
    screen.output.print(f"Card: {files[-2]} and {files[-1].name} ({judged})", soft_wrap=True, markup=False)
