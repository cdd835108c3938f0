"""The command ``analyze``."""

from __future__ import annotations

import json as codec
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deconfound.cli.options import Data, Json, Overwrite, Quiet
from deconfound.cli.screen import Screen, logged
from deconfound.errors import require

if TYPE_CHECKING:
    from deconfound.records import AnalysisRecord


def analyze(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as train leaves it.")],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="style, reliance, instruments, exposure, pictures, effects, checkpoints, or all that fit the run.",
        ),
    ],
    data: Data = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", help="The first N test images; all by default.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="SEED", help="Draw the N images with this seed.")] = None,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Of all random numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(metavar="B", help="Images at a time.")] = 256,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu or cuda.")] = "auto",
    rho: Annotated[
        str | None,
        typer.Option(metavar="RHO,...", help="reliance: further rho of the test images; sweep: 1/K, .5, .9, .99."),
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="instruments, pictures: where to cut.")] = None,
    treatments: Annotated[
        int | None, typer.Option(metavar="P", help="instruments: principal components of the treatment [4].")
    ] = None,
    instruments: Annotated[
        int | None, typer.Option(metavar="Q", help="instruments: of the instrument, more than P [8].")
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="pictures: steps of the search [256].")] = None,
    attack: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="effects: attacks by name [pgd-20,fgsm,cw-20,apgd-20].")
    ] = None,
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
    from deconfound.recipes.analysing import ALL, Look, look_into, look_into_all

    screen = Screen(quiet=quiet)
    with logged(screen):
        look = Look(
            run=run,
            kind=kind,
            data=data,
            n=n,
            sample=sample,
            seed=seed,
            batch_size=batch_size,
            device=device,
            rho=rho,
            layer=layer,
            treatments=treatments,
            instruments=instruments,
            steps=steps,
            attack=attack,
        )
        if kind == ALL:
            everything = look_into_all(look, out=out, overwrite=overwrite, monitor=screen)
            found, skipped = list(everything.found.values()), everything.skipped
        else:
            found, skipped = [look_into(look, out=out, overwrite=overwrite, monitor=screen)], {}
    if json:
        _print_json([record for record, _ in found], skipped, several=kind == ALL)
        return
    for record, files in found:
        _print(screen, record, files)
    for name, reason in skipped.items():
        screen.output.print(f"Left out: {name}: {reason}", soft_wrap=True, markup=False)


def _print(screen: Screen, record: AnalysisRecord, files: Sequence[Path]) -> None:
    from deconfound.reporting import analysis_table

    screen.output.print(analysis_table(record))
    others = ", ".join(file.name for file in files[1:])
    screen.output.print(f"Record: {files[0]}; beside it {others}", soft_wrap=True, markup=False)


def _print_json(records: Sequence[AnalysisRecord], skipped: Mapping[str, str], *, several: bool) -> None:
    if not several:
        typer.echo(records[0].to_json(), nl=False)
        return
    data = {"analyses": [record.model_dump(mode="json") for record in records], "left_out": dict(skipped)}
    typer.echo(codec.dumps(data, indent=1))


def compare_reliance(places: Sequence[Path], out: Path | None, *, json: bool) -> None:
    """Reliance records side by side, model by rho.

    Raises:
        InputError: no two of them, or a file to write to, which this table has none for.
    """
    from deconfound.recipes.collecting import collect_reliance
    from deconfound.reporting import side_by_side_table

    require(out is None, "out", str(out), "none with --reliance, whose table is in the report")
    records = collect_reliance(places)
    if json:
        typer.echo(codec.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    Screen().output.print(side_by_side_table(records))
