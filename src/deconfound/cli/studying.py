"""The command ``study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deconfound.cli.options import Data, Json, Quiet, words_of
from deconfound.cli.screen import Screen, logged
from deconfound.errors import InputError, require


def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name or a YAML file; see list studies.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the study.")],
    data: Data = None,
    only: Annotated[str | None, typer.Option(metavar="NAME,..", help="Work on these methods [all].")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="S,..", help="Work on these training seeds [all].")] = None,
    earlier: Annotated[
        str | None, typer.Option(metavar="FILE,..", help="Records of it from elsewhere; what they have is done.")
    ] = None,
    part: Annotated[str, typer.Option(metavar="P", help="all, or one of train, judge, analyze, table.")] = "all",
    table: Annotated[bool, typer.Option("--table", help="Write the table again; short for --part table.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and say what is done and what is left.")] = False,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu or cuda.")] = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train methods and their controls, judge them all alike, and set them side by side.

    The same call goes on where it was interrupted; several calls share the work.

    Example: deconfound study mnist --data path/to/mnist --out studies/mnist
    """
    from deconfound.recipes.studying import study as job
    from deconfound.reporting import study_view

    require(not table or part in ("all", "table"), "part", part, "table, or nothing, with --table")
    chosen = []
    for seed in words_of("seeds", seeds):
        if not seed.isdecimal():
            raise InputError("seeds", seeds, "whole numbers separated by commas")
        chosen.append(int(seed))
    screen = Screen(quiet=quiet)
    with logged(screen):
        found = job(
            name,
            out=out,
            data=data,
            only=words_of("only", only),
            seeds=chosen,
            earlier=words_of("earlier", earlier),
            part="table" if table else part,
            dry_run=dry_run,
            device=device,
            monitor=screen,
        )
    if json and found.record is not None:
        typer.echo(found.record.to_json(), nl=False)
    elif found.record is not None:
        screen.output.print(study_view(found.record))
        screen.output.print(f"Written: {', '.join(map(str, found.files))}", soft_wrap=True, markup=False)
    else:
        for one in found.status:
            screen.output.print(str(one), soft_wrap=True, markup=False)
    if found.failures:
        raise FloatingPointError("; ".join(found.failures))
