"""The command ``certify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deconfound.cli.options import Data, Json, Overwrite, Quiet, numbers_of
from deconfound.cli.screen import Screen, logged


def certify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as train leaves it.")],
    sigma: Annotated[float | None, typer.Option(metavar="S", help="Of the noise; that of the run by default.")] = None,
    data: Data = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", help="The first N test images; all by default.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="SEED", help="Draw the N images with this seed.")] = None,
    n0: Annotated[int, typer.Option(metavar="N0", help="Draws that choose the class.")] = 100,
    draws: Annotated[int, typer.Option(metavar="R", help="Draws that bound its share.")] = 100_000,
    alpha: Annotated[float, typer.Option(metavar="A", help="Chance that a certificate is wrong.")] = 0.001,
    radii: Annotated[
        str | None, typer.Option(metavar="R,..", help="Show these L2 radii [multiples of sigma / 2].")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Of all random numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(metavar="B", help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Record [in the run's folder].")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Certify within which L2 radius the vote of a network under Gaussian noise stays as it is.

    Example: deconfound certify runs/noisy -n 500 --draws 10000
    """
    from deconfound.evaluation import Certification
    from deconfound.recipes.certifying import Certifying
    from deconfound.recipes.certifying import certify as job
    from deconfound.reporting import certification_table

    screen = Screen(quiet=quiet)
    settings = Certification(
        selection_draws=n0,
        draws=draws,
        alpha=alpha,
        seed=seed,
        batch_size=batch_size,
        radii=numbers_of("radii", radii, "such as 0.25,0.5"),
    )
    with logged(screen):
        wanted = Certifying(run=run, sigma=sigma, data=data, n=n, sample=sample, device=device, settings=settings)
        record, path = job(wanted, out=out, overwrite=overwrite, monitor=screen)
    if json:
        typer.echo(record.to_json(), nl=False)
        return
    screen.output.print(certification_table(record))
    screen.output.print(f"Record: {path}", soft_wrap=True, markup=False)
